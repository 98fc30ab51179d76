"""Every fault against two verifiers, Tagstone's and sigstore-python's; where they differ, a table says why.

The tables are exact: what is not in them is seen by both, so a new version of the library that sees more, or less, is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.policy.verdicts import Evidence
from proxy.verify.second import SecondVerdict
from tests.conformance.verdicts import accepted, ours, reason, theirs
from tests.simulator.sigstore.cases import FORMS, Form, FormName
from tests.simulator.sigstore.faults import Fault

#: What sigstore-python accepts although it is wrong, by the reason.
UNSEEN: Mapping[str, frozenset[Fault]] = {
    "it believes every certificate that the trusted root lists, whoever issued it and for what": frozenset(
        {
            "pathlen broken",
            "CA root expired at signing time",
            "intermediate with another EKU",
            "intermediate by another root",
        }
    ),
    "it does not hold the windows of authorities and logs against the time of signing": frozenset(
        {
            "CA window ends before",
            "CA window starts after",
            "log window ends before",
            "log window starts after",
            "CT window ends before",
            "CT window starts after",
        }
    ),
    "it reads the first issuer extension and ignores the other": frozenset({"issuer extensions differ"}),
    "of a checkpoint it reads the root hash and the signature": frozenset(
        {"checkpoint of another size", "checkpoint of another origin"}
    ),
    "its library for timestamps does not ask for the signed id of the certificate": frozenset(
        {"timestamp without a certificate id"}
    ),
    "it leaves what is in the envelope to its caller": frozenset(
        {
            "another payload type",
            "statement for another digest",
            "statement without subject",
            "statement of another type",
            "statement with upper-case digest",
            "1025 subjects",
        }
    ),
}
#: What sigstore-python accepts where a log proves a time as well: timestamps that do not hold are as if they were not there. Here
#: one at least of those that are there must hold, since whoever put it there wanted it to be looked at.
OVERLOOKED: frozenset[Fault] = frozenset(
    {
        "timestamp over other bytes",
        "timestamp broken",
        "timestamp altered",
        "timestamp rejected",
        "TSA leaf without EKU",
        "TSA leaf EKU not critical",
        "TSA leaf expired",
        "TSA window ends before",
        "TSA window starts after",
    }
)
#: What is right, and sigstore-python refuses it.
REFUSED: Mapping[str, frozenset[Fault]] = {
    "the last moment of a timestamp authority's window does not belong to it": frozenset({"TSA window ends at signing"}),
}
#: Forms that sigstore-python refuses though nothing is wrong with them, and what it says of them.
UNREAD: Mapping[FormName, str] = {
    "bundle, Rekor v1, intoto 0.0.2": "Integrated time only supported for dsse/hashedrekord 0.0.1 types",
    "bundle, Rekor v2, dsse 0.0.2": "Unsupported DSSE log entry type: dsse/0.0.2",
    "bundle, GitHub": "trusted root contains no transparency log instances",
    "bundle v0.2, own CA": "trusted root contains no transparency log instances",
    "bundle by a key, Rekor v1": "expected certificate in bundle",
    "bundle by a key, Rekor v2": "expected certificate in bundle",
}
BUNDLES = [form for form in FORMS if form.content in ("envelope", "message")]
JUDGED = [form for form in BUNDLES if form.name not in UNREAD]


def named(form: Form) -> str:
    """For test ids."""
    return form.name


def wrongly_refused(form: Form) -> frozenset[Fault]:
    """What of this form sigstore-python refuses although it is right: where it overlooks timestamps, it cannot refuse them."""
    everything = frozenset[Fault]().union(*REFUSED.values())
    return everything & frozenset(form.oddities()) if form.how.rekor == 2 else frozenset()


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_ours_refuses_every_fault(form: Form) -> None:
    """What is right is accepted, odd as it may be, and of what is wrong nothing."""
    found = ours(form)
    assert accepted(found), reason(found)
    assert {fault: reason(ours(form, fault)) for fault in form.oddities() if not accepted(ours(form, fault))} == {}
    assert [fault for fault in form.faults() if accepted(ours(form, fault))] == []


@pytest.mark.parametrize("form", JUDGED, ids=named)
def test_where_the_two_differ(form: Form) -> None:
    """Exactly what the tables say, of what this form can have."""
    assert theirs(form) is None
    unseen = {fault for fault in form.faults() if theirs(form, fault) is None}
    expected = frozenset().union(*UNSEEN.values(), OVERLOOKED if form.how.rekor == 1 else ())
    assert unseen == expected & set(form.faults())
    refused = {fault for fault in form.oddities() if theirs(form, fault) is not None}
    assert refused == wrongly_refused(form)


@pytest.mark.parametrize("form", [form for form in BUNDLES if form.name in UNREAD], ids=named)
def test_what_sigstore_python_does_not_read(form: Form) -> None:
    """For the reason in the table."""
    assert UNREAD[form.name] in (theirs(form) or "accepted")


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_the_second_verdict_costs_nothing_that_is_right(form: Form) -> None:
    """Both together accept it: sigstore-python does, or it is known that it cannot judge."""
    second = SecondVerdict()
    for oddity in (None, *form.oddities()):
        found = ours(form, oddity, second=second)
        assert isinstance(found, Evidence)
        assert found.accepted, found.reason
        if form.keyless:
            judged = form in JUDGED and oddity not in wrongly_refused(form)
            assert ("sigstore-python accepts it, too" in found.steps) == judged, found.steps


WAYS: Mapping[str, dict[str, Any]] = {
    "P-384": {"key": "p384"},
    "P-384, SHA-384": {"key": "p384", "native_hash": True},
    "P-521": {"key": "p521"},
    "P-521, SHA-512": {"key": "p521", "native_hash": True},
    "RSA": {"key": "rsa2048"},
    "Ed25519": {"key": "ed25519"},
    "32 timestamps": {"timestamps": 32},
    "the only entry of a log": {"tree": (0, 1)},
    "an entry of a large log": {"tree": (700, 1000)},
    "a workflow": {"san": "uri", "identity": "https://example.test/acme/.github/workflows/release.yml@refs/tags/v1"},
    "a user name": {"san": "other name", "identity": "joe!example.test"},
    "further claims": {"claims": {"owner_id": "4242", "trigger": "push", "source_ref": "refs/tags/v1"}},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_right_in_other_ways(way: str) -> None:
    """Every form with every kind of key and name, with as many timestamps as may be, and anywhere in a log."""
    second = SecondVerdict()
    for form in FORMS:
        if form.keyless:
            found = ours(replace(form, how=replace(form.how, **WAYS[way])), second=second)
            assert accepted(found), (form.name, reason(found))


def test_the_tables_name_what_there_is() -> None:
    """No reason without a fault that some form can have, and no fault under two reasons."""
    possible = {fault for form in JUDGED for fault in (*form.faults(), *form.oddities())}
    for table in (UNSEEN, REFUSED):
        listed = [fault for faults in table.values() for fault in faults]
        assert len(listed) == len(set(listed))
        assert set(listed) <= possible
