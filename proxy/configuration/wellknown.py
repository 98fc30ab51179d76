"""``extends: well-known``: rules for public images whose signers are known, from ``config/signers.yaml``.

They stand behind the file's own rules: the more specific pattern wins as ever, and of equals the file's own. What they trust goes
by names that begin with :data:`ROOT`, which the file cannot give to anything else while it extends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from proxy.configuration.report import Report
from proxy.configuration.rules import RuleBuilder
from proxy.configuration.source import Node, parse
from proxy.configuration.trust import Names
from proxy.configuration.tuf import Source, public_good_source, root_of
from proxy.configuration.words import problems_of
from proxy.errors import ConfigurationError
from proxy.policy.document import CertificateIdentity, RuleSettings, SignatureForm, SignatureSettings
from proxy.policy.patterns import Pattern
from proxy.policy.rules import Never, Rule
from proxy.schema import Model, Name
from proxy.tuf.state import State

if TYPE_CHECKING:
    from proxy.verify.model import Trusted

#: The word under ``extends``, and the name of the root that vouches for keyless signers: that of sigstore.dev.
ROOT = "well-known"
#: The file in messages.
FILE = "config/signers.yaml"
_SHOWN = 3


class Signer(Model):
    """How somebody signs public images, as a public page states it."""

    name: Name = Field(description="What people call these images.")
    match: tuple[str, ...] = Field(min_length=1, description="Patterns for `registry/repository`, as in rules.")
    keyless: CertificateIdentity | None = Field(None, description="As in rules; the root is always the same.")
    key: str | None = Field(None, description="Public key, in PEM.")
    page: str = Field(description="Address of the page that states all of this.")

    @model_validator(mode="before")
    @classmethod
    def _under_the_root(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("keyless"), dict):
            return {**value, "keyless": {**value["keyless"], "root": ROOT}}
        return value

    @model_validator(mode="after")
    def _signs_in_one_way(self) -> Signer:
        if (self.keyless is None) == (self.key is None):
            raise ValueError("needs either `keyless` or `key`")
        return self

    @property
    def key_name(self) -> str:
        """What its key is called in refusals."""
        return f"{ROOT}.{self.name}"

    def rule(self, pattern: str) -> RuleSettings:
        """The rule for one of its patterns."""
        key = None if self.key is None else self.key_name
        by = SignatureSettings(key=key, keyless=self.keyless, notation=None, docker_reference=None)
        return RuleSettings(match=pattern, require=SignatureForm(signature=by), tags=())


class _Signers(Model):
    signers: tuple[Signer, ...]


@dataclass(frozen=True, slots=True)
class WellKnown:
    """What ``extends: well-known`` brings."""

    rules: tuple[Rule, ...]
    trusted: Trusted  #: the file's own trust, and what these rules name
    pages: Mapping[str, str]  #: pattern → address of the page that says how its images are signed
    sources: Mapping[str, Source]  #: where their root comes from, if they need one


def shipped_signers() -> str:
    """The text of ``config/signers.yaml`` as installed."""
    return files("config").joinpath("signers.yaml").read_text(encoding="utf-8")


def read_signers(text: str) -> tuple[tuple[Signer, ...], Node]:
    """The signers in ``text`` and the nodes they were read from. Raises :class:`ConfigurationError`."""
    root, problems = parse(text, FILE)
    if problems:
        raise ConfigurationError(problems)
    try:
        return _Signers.model_validate(root.plain()).signers, root
    except ValidationError as error:
        raise ConfigurationError(tuple(problems_of(error.errors(include_url=False), root, FILE))) from error


def extend(
    own: Sequence[Rule],
    trusted: Trusted,
    names: Names,
    registries: frozenset[str],
    report: Report,
    text: str | None = None,
    *,
    required: bool = False,
) -> WellKnown:
    """The well-known rules for images that can be pulled from ``registries`` and have no rule of ``own`` with the same pattern.

    What stands in the way is told in ``report``: names of the file's own that are taken, and mistakes in ``text`` (the signers;
    those that are shipped by default). ``required``: see :func:`proxy.configuration.tuf.root_of`. Raises
    :class:`ConfigurationError` when ``text`` cannot be read as signers at all.
    """
    from proxy.verify.model import Trusted

    signers, root = read_signers(shipped_signers() if text is None else text)
    taken = {rule.pattern.text for rule in own}
    wanted = [
        (signer, pattern, ("signers", position, "match", at))
        for position, signer in enumerate(signers)
        for at, pattern in enumerate(signer.match)
        if pattern not in taken and _reachable(pattern, registries)
    ]
    mistakes = Report(FILE, root)
    brought = _trust([signer for signer, _, _ in wanted], mistakes, required=required)
    for section, entries in (("roots", brought.roots), ("keys", brought.keys)):
        for name in sorted(entries.keys() & set(names.of(section))):
            told = f"is the name of what `extends: {ROOT}` brings; give yours another"
            report.error(("trust", section, name), told)
    known = Names(tuple(brought.keys), tuple(brought.roots), ())
    builder = RuleBuilder(brought, known, registries, mistakes)
    built = [builder.rule(signer.rule(pattern), location) for signer, pattern, location in wanted]
    report.errors += mistakes.errors
    rules = tuple(rule for rule in built if rule is not None)
    _warn_of_denials(own, rules, report)
    return WellKnown(
        rules,
        Trusted({**brought.keys, **trusted.keys}, {**brought.roots, **trusted.roots}, trusted.stores, trusted.openpgp),
        MappingProxyType({pattern: signer.page for signer, pattern, _ in wanted}),
        dict.fromkeys(brought.roots, public_good_source()),
    )


def _reachable(pattern: str, registries: frozenset[str]) -> bool:
    return any(map(Pattern.compile(pattern.partition("/")[0]).matches, registries))


def _trust(signers: Sequence[Signer], report: Report, *, required: bool) -> Trusted:
    """What these signers are recognised by; nothing that is not needed is loaded."""
    from proxy.verify.model import Trusted
    from proxy.verify.trust import Key

    roots = {}
    if any(signer.keyless is not None for signer in signers):
        roots[ROOT] = root_of(ROOT, public_good_source(), State(), required=required)
    keys = {}
    for signer in signers:
        if signer.key is not None and signer.key_name not in keys:
            try:
                keys[signer.key_name] = Key.load(signer.key_name, signer.key.encode())
            except ValueError as error:
                report.error(("signers",), f"the key of {signer.name}: {error}")
    return Trusted(keys, roots)


def _warn_of_denials(own: Sequence[Rule], rules: Sequence[Rule], report: Report) -> None:
    """Who denies a whole registry may not expect that some of it is now allowed."""
    for index, denied in _denials(own):
        freed = [rule.pattern.text for rule in rules if _within(rule, denied)]
        if freed:
            shown = ", ".join(f'"{text}"' for text in freed[:_SHOWN])
            more = f" and {len(freed) - _SHOWN} more" if len(freed) > _SHOWN else ""
            told = f"denies images that `extends: {ROOT}` allows when they are signed: {shown}{more}"
            report.warn(("rules", index, "match"), f"{told}; write these patterns with `require: deny` to deny them as well")


def _denials(own: Sequence[Rule]) -> Iterator[tuple[int, Rule]]:
    for index, rule in enumerate(own):
        if rule.require == Never() and not rule.pattern.text.startswith("**"):
            yield index, rule


def _within(rule: Rule, denied: Rule) -> bool:
    # A wildcard of the one pattern counts as plain text to the other: enough for a warning.
    return denied.pattern.matches(rule.pattern.text) and rule.pattern.specificity > denied.pattern.specificity
