"""The configuration: one YAML file, read, checked as a whole, and turned into the values that the server works with.

:func:`load` answers a :class:`Configuration` or raises :class:`proxy.errors.ConfigurationError` with every problem of the file,
each with its line and the way out. In between::

    source     YAML → nodes with lines (bounds, duplicate keys)
    words      what pydantic finds in them → words for people
    upstreams  registries, endpoints, credentials, host names
    trust      keys, roots and trust stores
    tuf        roots that come from TUF repositories, with what is stored of these
    rules      requirements, patterns
    access     who may pull: grants, credentials, issuers
    admission  how Kubernetes' reviews are answered
    alerts     who is told of events
    identity   one hash for everything that decides
    wellknown  the rules that ``extends`` brings
    schema     the JSON Schema, for editors and for "did you mean"
    reference  the tables of docs/configuration.md
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from proxy.configuration.access import AccessConfiguration, build_access
from proxy.configuration.admission import build_reviews
from proxy.configuration.alerts import build_alerts
from proxy.configuration.report import Report
from proxy.configuration.rules import RuleBuilder
from proxy.configuration.source import MAX_DEPTH, Node, parse, read
from proxy.configuration.trust import Names, build_trust, identities, lasting
from proxy.configuration.tuf import Source, known, root_of
from proxy.configuration.upstreams import build_default_registry, build_hosts, build_upstreams, canonical
from proxy.configuration.words import problems_of
from proxy.errors import ConfigurationError, Problem
from proxy.policy.alerts import AlertPolicy
from proxy.policy.reviews import ReviewPolicy
from proxy.policy.rules import Rule, fingerprint
from proxy.schema import FOLDER, Address
from proxy.settings import Settings, Upstream
from proxy.tuf.repository import TufRepository
from proxy.tuf.state import State

if TYPE_CHECKING:
    from proxy.verify.model import Trusted

#: The environment variable that names the file.
VARIABLE = "TAGSTONE_CONFIG"
LOCAL = Path("tagstone.yaml")
SYSTEM = Path("/etc/tagstone/tagstone.yaml")
#: Taking out one value may empty what holds it, level by level.
_ROUNDS = 2 * MAX_DEPTH
_STAND_IN, _ = parse('rules: [{match: "**", require: deny}]', "")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything the file says, checked. Registry names are canonical, paths absolute."""

    path: Path
    settings: Settings
    rules: tuple[Rule, ...]
    trusted: Trusted
    upstreams: Mapping[str, Upstream]
    hosts: Mapping[str, str]
    default_registry: str
    listen: Address
    admin_listen: Address
    access: AccessConfiguration
    reviews: ReviewPolicy | None = None
    warnings: tuple[Problem, ...] = ()
    #: Where each of ``rules`` stands in the file; the line of ``extends`` for those that it brought.
    rule_lines: tuple[int, ...] = ()
    #: The patterns of rules that ``extends`` brought → address of the page that says how these images are signed.
    pages: Mapping[str, str] = field(default_factory=dict)
    #: Those of the roots that come from TUF repositories, by name.
    sources: Mapping[str, Source] = field(default_factory=dict)
    #: What was known of these repositories, by their folders, when the roots were made.
    states: Mapping[str, State] = field(default_factory=dict)
    alerts: AlertPolicy = field(default_factory=AlertPolicy)

    @property
    def repositories(self) -> tuple[TufRepository, ...]:
        """The TUF repositories, each once: several roots may come from one."""
        return tuple({source.repository.folder: source.repository for source in self.sources.values()}.values())

    def knowing(self, states: Mapping[str, State]) -> Configuration:
        """The same with the roots that follow from what is known of their repositories now, and rules that ask by these.

        Of a repository that ``states`` leaves out, what was known is known on.
        """
        states = {folder: states.get(folder, state) for folder, state in self.states.items()}
        if states == self.states:
            return self
        required = self.settings.trust.freshness == "required"
        roots = {
            name: root_of(name, source, states[source.repository.folder], required=required)
            for name, source in self.sources.items()
        }
        trusted = replace(self.trusted, roots={**self.trusted.roots, **roots})
        names = identities(trusted)
        rules = tuple(replace(rule, fingerprint=fingerprint(rule.require, names)) for rule in self.rules)
        return replace(self, trusted=trusted, rules=rules, states=MappingProxyType(states))


def find(explicit: Path | None) -> Path:
    """Which file to read: the one named, else $TAGSTONE_CONFIG, else ./tagstone.yaml, else /etc/tagstone/tagstone.yaml.

    Raises :class:`ConfigurationError` when none is named and neither of the last two is there.
    """
    if explicit is not None:
        return explicit
    if named := os.environ.get(VARIABLE):
        return Path(named)
    for path in (LOCAL, SYSTEM):
        if path.is_file():
            return path
    message = f"there is no such file, nor {SYSTEM}; name one with --config or ${VARIABLE}"
    raise ConfigurationError((Problem(str(LOCAL), 0, "", message),))


def load(path: Path, now: datetime | None = None, *, data_dir: Path | None = None) -> Configuration:
    """Read and check the file. Reads the files it names as well (keys, certificates), but asks no network.

    ``now`` (aware; the clock by default) decides which keys are told to be out of their time. ``data_dir`` is used in place of
    the configured one, to find what is stored of TUF repositories. Raises :class:`ConfigurationError` with every problem, in the
    order of the lines.
    """
    file = str(path)
    root, problems = parse(read(path), file)
    settings, kept, wrong = _settings(root, file, path.absolute().parent)
    report = Report(file, kept, [*problems, *wrong])
    if settings is None:
        raise _failure(report)
    # Names count as known even where what they stand for does not check out: one mistake is told once.
    registries = canonical(_names(root, "upstreams"))
    upstreams = build_upstreams(settings, report)
    hosts = build_hosts(settings, registries, report)
    default_registry = build_default_registry(settings, registries, report)
    moment = now or datetime.now(UTC)
    for section in ("access", "tls", "admission"):
        if root.child(section) is not None and getattr(settings, section) is None and not wrong:
            # Empty would mean "without": too much of a change for lines that were only commented out.
            report.error((section,), "has nothing in it: remove the key, or say what is meant")
    access = build_access(settings, registries, moment, report)
    reviews = build_reviews(settings, registries, report)
    alerts = build_alerts(settings, report)
    names = Names(*(_names(root, "trust", section) for section in ("keys", "roots", "notation")))
    trusted, sources = build_trust(settings, names, moment, report)
    rules = RuleBuilder(trusted, names, registries, report).build(settings)
    lines = [report.line(("rules", index)) for index in range(len(rules))]
    pages: Mapping[str, str] = {}
    if settings.extends:
        from proxy.configuration.wellknown import extend

        brought = extend(rules, trusted, names, registries, report, required=settings.trust.freshness == "required")
        rules, trusted, pages = (*rules, *brought.rules), brought.trusted, brought.pages
        sources |= brought.sources
        lines += [report.line(("extends",))] * len(brought.rules)
    if report.errors:
        raise _failure(report)
    configuration = Configuration(
        path,
        settings,
        tuple(lasting(rule, trusted, sources) for rule in rules),
        trusted,
        MappingProxyType(upstreams),
        MappingProxyType(hosts),
        default_registry,
        Address.parse(settings.listen),
        Address.parse(settings.admin.listen),
        access,
        reviews,
        tuple(sorted(report.warnings, key=lambda problem: problem.line)),
        tuple(lines),
        pages,
        MappingProxyType(sources),
        {source.repository.folder: State() for source in sources.values()},
        alerts,
    )
    return configuration.knowing(known(sources.values(), data_dir or settings.data_dir))


def _settings(root: Node, file: str, folder: Path) -> tuple[Settings | None, Node, list[Problem]]:
    """The settings, the tree they were read from, and what is wrong.

    What does not check out is taken out and the rest is tried again, so that everything else that is wrong is found too. Such
    settings are only good for finding it: there is a problem, so they are never used.
    """
    problems: list[Problem] = []
    kept = root
    for attempt in range(_ROUNDS):
        try:
            return Settings.model_validate(kept.plain(), context={FOLDER: folder}), kept, problems
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if attempt == 0:
                problems = problems_of(errors, root, file)
        kept = kept.without(error["loc"] for error in errors)
        if not (child := kept.child("rules")) or not child[2].items:
            # Nothing is left of the one part that must be there; with this in its place the others can still be looked at.
            kept = replace(kept, entries={**kept.entries, **_STAND_IN.entries})
    return None, kept, problems


def _names(root: Node, *path: str) -> tuple[str, ...]:
    node = root
    for step in path:
        if (child := node.child(step)) is None:
            return ()
        node = child[2]
    return tuple(node.entries)


def _failure(report: Report) -> ConfigurationError:
    return ConfigurationError(tuple(sorted(report.errors, key=lambda problem: problem.line)))
