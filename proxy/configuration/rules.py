"""From rules as written to the values that decide: patterns compiled, signers known, requirements fingerprinted.

A pattern that could never match is an error, not a warning: who writes it means an image, and that image would be judged by
another rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, time, timedelta, tzinfo
from typing import TYPE_CHECKING, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from proxy.configuration.report import Report
from proxy.configuration.source import Location
from proxy.configuration.trust import Names, identities
from proxy.configuration.words import nearest, suggestion
from proxy.policy.document import (
    AllForm,
    AnyForm,
    AtLeastForm,
    AttestationForm,
    AttestationSettings,
    Attester,
    CertificateIdentity,
    Require,
    RuleSettings,
    SignatureForm,
    SignatureSettings,
    TagSettings,
    WindowSettings,
)
from proxy.policy.patterns import Pattern, Regex
from proxy.policy.rules import (
    EXTENSIONS,
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    Continuity,
    FirstUse,
    Identity,
    Never,
    On,
    OnOverwrite,
    OpenPgp,
    Requirement,
    Rotation,
    Rule,
    SignatureBy,
    Signer,
    Store,
    TagRule,
    fingerprint,
)
from proxy.policy.windows import DAYS, Window
from proxy.settings import Settings
from storage.errors import MalformedName
from storage.reference import DOCKER_HUB, MAX_NAME, parse_registry

if TYPE_CHECKING:
    from proxy.verify.model import Trusted

#: Deepest nesting of ``all``, ``any`` and ``at_least``.
MAX_DEPTH = 8
#: The predicate type with which cosign says that an image is signed.
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_WILDCARD = re.compile(r"[*?]")
#: What goes with ``on_overwrite: rotate`` alone, and what holds where it is not written.
_OF_ROTATION = ("cooldown", "signer", "otherwise", "window", "stale_after")
_COOLDOWN = timedelta(hours=72)
_STALE_AFTER = timedelta(days=7)
#: Nobody's names, on a domain that is nobody's: a pattern that matches one of these names no domain, and so nobody in particular.
_STRANGERS = (
    "nobody@strangers.invalid",
    "https://strangers.invalid/a/b/c.yml@refs/heads/d",
    "spiffe://strangers.invalid/ns/x/sa/y",
)
_REPOSITORY = re.compile(r"[a-z0-9._*?-]+(?:/[a-z0-9._*?-]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_.*?-]+", re.ASCII)


# -- rules ----------------------------------------------------------------------------------------------------------


class RuleBuilder:
    """Turns the written rules into values. ``key_names`` and ``registries`` are all that the file names, sound or not."""

    def __init__(self, trusted: Trusted, names: Names, registries: frozenset[str], report: Report) -> None:
        self._keys = trusted.keys
        self._openpgp = trusted.openpgp
        self._names = names
        self._registries = registries
        self._report = report
        self._trusted = identities(trusted)
        self._used: set[tuple[str, str]] = set()  # (section of trust, entry) that the rules refer to

    def build(self, settings: Settings) -> tuple[Rule, ...]:
        """The rules in the order of the file. What does not check out is reported and left out."""
        rules: list[Rule] = []
        seen: dict[str, Location] = {}
        for index, written in enumerate(settings.rules):
            location = ("rules", index)
            self._check_unique(written.match, seen, (*location, "match"))
            if (rule := self.rule(written, location)) is not None:
                rules.append(rule)
        return tuple(rules)

    def rule(self, written: RuleSettings, location: Location) -> Rule | None:
        """One rule; None where it does not check out, which is reported at ``location``."""
        self._check_match(written, (*location, "match"))
        require = self._requirement(written.require, (*location, "require"), 0)
        tags = self._tags(written.tags, written.require, (*location, "tags"))
        if require is None:
            return None
        return Rule(Pattern.compile(written.match), require, tags, fingerprint(require, self._trusted))

    def _check_unique(self, pattern: str, seen: dict[str, Location], location: Location) -> None:
        first = seen.setdefault(pattern, location)
        if first is not location:
            line = self._report.line(first)
            self._report.error(location, f'"{pattern[:100]}" stands here a second time; the first is in line {line}')

    def _check_match(self, written: RuleSettings, location: Location) -> None:
        wrong = explain_pattern(written.match, self._registries)
        if wrong is not None:
            self._report.error(location, wrong)
            return
        head = written.match.partition("/")[0]
        if "**" in head or written.require == "deny":
            return
        if _WILDCARD.search(head):
            pattern = Pattern.compile(head)
            if not any(map(pattern.matches, self._registries)):
                self._report.warn(location, f"no upstream matches `{head}`, so nothing can be pulled by this rule")
        elif head not in self._registries:
            near = nearest(head, self._registries)
            way = f"did you mean `{near}`?" if near else f"add `upstreams: {{{head}: {{}}}}`"
            self._report.warn(location, f"no upstream `{head}`, so nothing can be pulled by this rule; {way}")

    # -- what is required

    def _requirement(self, written: Require, location: Location, depth: int) -> Requirement | None:
        if depth > MAX_DEPTH:
            self._report.error(location, f"is nested too deep: {MAX_DEPTH} levels of `all`, `any` and `at_least` at most")
            return None
        match written:
            case "first-use":
                return FirstUse()
            case "deny":
                return Never()
            case SignatureForm(signature=signature):
                return self._signature(signature, (*location, "signature"))
            case AttestationForm(attestation=attestation):
                return self._attestation(attestation, (*location, "attestation"))
            case AllForm():
                of = self._group(written.all, (*location, "all"), depth)
                return None if of is None else AllOf(of)
            case AnyForm():
                of = self._group(written.any, (*location, "any"), depth)
                return None if of is None else self._any(of, (*location, "any"))
            case AtLeastForm(at_least=count):
                of = self._group(written.of, (*location, "of"), depth)
                return None if of is None else self._at_least(count, of, location)
            case _:
                assert_never(written)

    def _group(self, written: Iterable[Require], location: Location, depth: int) -> tuple[Requirement, ...] | None:
        built = [self._requirement(item, (*location, index), depth + 1) for index, item in enumerate(written)]
        whole = tuple(item for item in built if item is not None)
        return whole if len(whole) == len(built) else None

    def _signature(self, written: SignatureSettings, location: Location) -> Requirement | None:
        signer: Signer | None = None
        if written.keyless is not None:
            signer = self._identity(written.keyless, (*location, "keyless"))
        elif written.notation is not None:
            if self._knows("notation", written.notation.store, (*location, "notation", "store")):
                signer = Store(written.notation.store)
        elif written.key is not None and self._knows("keys", written.key, (*location, "key")):
            signer = OpenPgp(written.key) if written.key in self._openpgp else written.key
        return None if signer is None else SignatureBy(signer, written.docker_reference is not None)

    def _attestation(self, written: AttestationSettings, location: Location) -> Requirement | None:
        by = written.by
        signer: str | Identity | None = None
        if by.key is None:
            signer = self._identity(by, (*location, "by"))
        elif by.key in self._openpgp:
            told = f"names `{by.key}`, an OpenPGP key: such keys sign images, not attestations"
            self._report.error((*location, "by", "key"), told)
        elif self._knows("keys", by.key, (*location, "by", "key")):
            signer = by.key
        if written.type == SIGN_PREDICATE:
            told = "is what a signature says; use `signature:` for it"
            self._report.error((*location, "type"), told)
        if written.when is not None:
            from proxy.verify.conditions import Condition

            try:
                Condition(written.when)
            except ValueError as error:
                self._report.error((*location, "when"), str(error))
        if written.max_age is not None and by.key is not None and (key := self._keys.get(by.key)) and key.root is None:
            told = f"needs the time of signing, which nothing proves for key `{by.key}`: give it a `root` under trust.keys"
            self._report.error((*location, "max_age"), told)
        if signer is None:
            return None
        age = None if written.max_age is None else timedelta(seconds=written.max_age)
        return AttestationBy(written.type, signer, written.when, age, On(written.on))

    def _identity(self, written: CertificateIdentity | Attester, location: Location) -> Identity | None:
        if written.root is None or written.issuer is None or not self._knows("roots", written.root, (*location, "root")):
            return None
        identity: Pattern | Regex
        if written.identity_re2 is not None:
            try:
                identity = Regex.compile(written.identity_re2)
            except ValueError as error:
                self._report.error((*location, "identity_re2"), f"is no regular expression in RE2: {error}")
                return None
        else:
            identity = Pattern.compile(written.identity or "")
        if any(map(identity.matches, _STRANGERS)):
            field = "identity" if written.identity_re2 is None else "identity_re2"
            self._report.error((*location, field), "matches whoever the issuer knows; write whose signatures count")
            return None
        if _WILDCARD.search(written.issuer):
            self._report.error((*location, "issuer"), "is no pattern: write the issuer in full")
            return None
        claims = ((name, getattr(written, name)) for name in EXTENSIONS)
        extensions = tuple((name, Pattern.compile(value)) for name, value in claims if value is not None)
        return Identity(written.root, written.issuer, identity, extensions)

    def _knows(self, section: str, name: str, location: Location) -> bool:
        """Whether the file has this entry of trust; an error where it does not."""
        entries = self._names.of(section)
        if name in entries:
            return True
        what = {"keys": "key", "roots": "root", "notation": "trust store"}[section]
        known = suggestion(name, entries, f"the {what}s are") or "; there is none yet, add it there"
        self._report.error(location, f"no {what} `{name[:100]}` under trust.{section}{known}")
        return False

    def _any(self, of: tuple[Requirement, ...], location: Location) -> Requirement:
        if len(of) > 1 and FirstUse() in of:
            self._report.warn(location, "holds `first-use`, which every image meets: the other items are never needed")
        return AnyOf(of)

    def _behind(self, by: str | OpenPgp) -> str | frozenset[str]:
        """Who stands behind a key's name: its fingerprint, or those of an OpenPGP file."""
        if isinstance(by, OpenPgp):
            return self._openpgp[by.name].fingerprints
        return self._keys[by].fingerprint if by in self._keys else by

    def _at_least(self, count: int, of: tuple[Requirement, ...], location: Location) -> Requirement:
        named = [item.by for item in of if isinstance(item, SignatureBy) and isinstance(item.by, str | OpenPgp)]
        signers = {self._behind(by) for by in named}
        possible = len(of) - len(named) + len(signers)
        if possible < count:
            told = f"asks for {count} distinct signers, but names only {possible}: no image could ever pass"
            self._report.warn((*location, "at_least"), told)
        return AtLeast(count, of)

    # -- tags

    def _tags(self, written: Iterable[TagSettings], require: Require, location: Location) -> tuple[TagRule, ...]:
        tags: list[TagRule] = []
        seen: dict[str, Location] = {}
        for index, tag in enumerate(written):
            here = (*location, index)
            self._check_unique(tag.match, seen, (*here, "match"))
            if not _TAG.fullmatch(tag.match) or len(tag.match) > MAX_NAME:
                told = f'"{tag.match[:100]}" matches no tag: tags are made of A–Z a–z 0–9 _ . -, and `*` and `?` stand for some'
                self._report.error((*here, "match"), told)
            if tag.on_overwrite == "rotate":
                rotation = self._rotation(tag, require, here)
                if rotation is not None:
                    approvers = 0 if tag.approvers is None else tag.approvers
                    tags.append(TagRule(Pattern.compile(tag.match), OnOverwrite.ROTATE, approvers, rotation))
                continue
            for field in _OF_ROTATION:
                if getattr(tag, field) is not None:
                    told = f"`{field}` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"
                    self._report.error((*here, field), told)
            if tag.approvers == 0:
                told = (
                    f"without anybody's approval no pin moves under `{tag.on_overwrite}`; write 1 or 2, or `on_overwrite: rotate`"
                )
                self._report.error((*here, "approvers"), told)
                continue
            tags.append(TagRule(Pattern.compile(tag.match), OnOverwrite(tag.on_overwrite), tag.approvers or 1))
        return tuple(tags)

    def _rotation(self, tag: TagSettings, require: Require, location: Location) -> Rotation | None:
        cooldown = _COOLDOWN if tag.cooldown is None else timedelta(seconds=tag.cooldown)
        if require == "first-use":
            if not cooldown and not tag.approvers:
                told = "is no wait at all, and the rule requires nothing: whatever the upstream names is served, as without pins"
                self._report.warn((*location, "cooldown"), told)
            if tag.signer is not None:
                self._report.warn((*location, "signer"), "makes no difference: nobody vouches for images on first use")
        window: Window | None = None
        if tag.window is not None:
            window = self._window(tag.window, (*location, "window"))
            if window is None:
                return None
        return Rotation(
            cooldown,
            Continuity(tag.signer or "same"),
            OnOverwrite(tag.otherwise or "refuse"),
            window,
            _STALE_AFTER if tag.stale_after is None else timedelta(seconds=tag.stale_after),
        )

    def _window(self, written: WindowSettings, location: Location) -> Window | None:
        zone: tzinfo | None = None
        try:
            zone = UTC if written.timezone == "UTC" else ZoneInfo(written.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            near = suggestion(written.timezone, _zones(), "the zones of this machine begin with")
            self._report.error((*location, "timezone"), f"no time zone `{written.timezone[:60]}` is known here{near}")
        if written.start == "24:00":
            self._report.error((*location, "from"), "is the end of a day; write 00:00 for the beginning of the next one")
            return None
        if written.start == written.end:
            told = "is when it opens: it would be open for no time; for whole days write `from: 00:00` and `to: 24:00`"
            self._report.error((*location, "to"), told)
            return None
        if zone is None:
            return None
        days = frozenset(DAYS.index(day) for day in written.days)
        end = None if written.end == "24:00" else time.fromisoformat(written.end)
        return Window(days, time.fromisoformat(written.start), end, zone, written.timezone)


def _zones() -> list[str]:
    return sorted(available_timezones())


# -- patterns -------------------------------------------------------------------------------------------------------


def explain_pattern(pattern: str, registries: frozenset[str]) -> str | None:
    """Why no image can match ``pattern``, or more than it says would; None when it is fine.

    What is matched is ``registry/repository`` in canonical spelling, so an alias of Docker Hub, a missing ``library/``, a
    capital letter or a tag makes a pattern that looks right and never holds.
    """
    head, slash, rest = pattern.partition("/")
    literal = not _WILDCARD.search(head)
    if not pattern:
        return 'is empty; write `registry/repository`, or "**" for every image'
    if len(pattern) > 2 * MAX_NAME:
        return f"is too long: {2 * MAX_NAME} characters at most"
    if "://" in pattern:
        return f"names of images have no scheme; write `{pattern.partition('://')[2][:100]}`"
    if pattern != pattern.lower():
        return f"names of images are lower-case; write `{pattern.lower()[:100]}`"
    if "**" in head and head != "**":
        return "`**` would cross into other registries' names; in the registry's part write `*`, or `**` alone"
    if not slash:
        return None if head == "**" else _explain_headless(pattern, registries)
    for mark, what in (("@", "digests are pulled under the same rule as tags"), (":", "tags belong under `tags:`")):
        if mark in rest:
            return f"a rule names repositories: {what}; write `{head}/{rest.partition(mark)[0][:100]}`"
    if not _REPOSITORY.fullmatch(rest):
        return "is no pattern for `registry/repository`: lower-case components of a–z 0–9 . _ - with `/` between them"
    return _explain_registry(pattern, head, rest, registries) if literal else None


def _explain_registry(pattern: str, head: str, rest: str, registries: frozenset[str]) -> str | None:
    if head not in registries and not ("." in head or ":" in head or head == "localhost"):
        return f"names of images begin with their registry; write `{DOCKER_HUB}/{pattern[:100]}`, or `**/{pattern[:100]}` for any"
    try:
        registry = parse_registry(head)
    except MalformedName as error:
        return str(error)
    if registry == DOCKER_HUB and "/" not in rest and "**" not in rest:
        return f"official images of Docker Hub are in `library/`; write `{DOCKER_HUB}/library/{rest[:100]}`"
    if registry != head:
        return f"`{head}` is another name of `{registry}`; write `{registry}/{rest[:100]}`"
    return None


def _explain_headless(pattern: str, registries: frozenset[str]) -> str:
    if pattern in registries or "." in pattern or ":" in pattern:
        return f"names a registry without a repository; write `{pattern[:100]}/**` for all of its images"
    if pattern == "*":
        return '`*` stops at `/`, so no image matches; write "**"'
    return f"names of images begin with their registry; write `{DOCKER_HUB}/library/{pattern[:100]}`"
