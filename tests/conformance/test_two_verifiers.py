"""Every fault against two verifiers, Tagstone's and sigstore-python's; where they differ, a table says why.

The tables are exact: what is not in them is seen by both, so a new version of the library that sees more, or less, is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from proxy.policy.rules import Evidence
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
    assert unseen == frozenset().union(*UNSEEN.values()) & set(form.faults())
    refused = {fault for fault in form.oddities() if theirs(form, fault) is not None}
    assert refused == frozenset().union(*REFUSED.values()) & set(form.oddities())


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
            judged = form in JUDGED and oddity not in frozenset().union(*REFUSED.values())
            assert ("sigstore-python accepts it, too" in found.steps) == judged, found.steps


def test_the_tables_name_what_there_is() -> None:
    """No reason without a fault that some form can have, and no fault under two reasons."""
    possible = {fault for form in JUDGED for fault in (*form.faults(), *form.oddities())}
    for table in (UNSEEN, REFUSED):
        listed = [fault for faults in table.values() for fault in faults]
        assert len(listed) == len(set(listed))
        assert set(listed) <= possible
