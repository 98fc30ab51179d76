"""What an entry of the ledger says, and its one spelling."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from storage.entries import (
    MAX_ENTRY,
    MAX_NAME,
    MAX_REASON,
    Entry,
    EntryKind,
    MalformedEntry,
    canonical,
    moment,
    of_block,
    of_pin,
    of_unblock,
    parse,
)
from storage.records import Block
from tests.unit.storage.values import AT, LATER, digest, first_pin, overwrite, unpin

texts = st.text(max_size=60)


@given(subject=texts, by=texts, reason=texts, to=st.none() | texts, number=st.integers(0, 2**53 - 1))
def test_an_entry_is_spelled_as_rfc_8785_says_and_reads_back(
    subject: str, by: str, reason: str, to: str | None, number: int
) -> None:
    """Whatever people wrote: the bytes are those of an independent implementation, and nothing is lost."""
    entry = Entry("pin.pinned", subject, AT, by, reason, None, to, {"pin": {"version": number, "by": by}})
    body = canonical(number, entry)
    assert body == rfc8785.dumps(json.loads(body))
    assert parse(body) == (number, entry)


@pytest.mark.parametrize("character", ["x", "\x01", "\U0001f40b", '"', "ä", "\udcff"])
def test_what_people_wrote_is_cut_so_that_every_entry_fits(character: str) -> None:
    """The longest names and reasons, escaped at their worst or not writable at all, still give an entry that reads back."""
    long = character * 100_000
    write = first_pin()
    assert write.new is not None
    facts = dict(of_pin(write, write.new).facts["pin"]) | {"pinned_by": long[:MAX_NAME]}
    facts["pinned_by"] = facts["pinned_by"].encode("utf-8", "replace").decode()
    body = canonical(7, Entry("pin.pinned", long, AT, long, long, long, long, {"pin": facts}))
    assert len(body) <= MAX_ENTRY
    _, entry = parse(body)
    assert (len(entry.reason), len(entry.by)) == (MAX_REASON, MAX_NAME)
    assert entry.reason.endswith("…")


def test_an_entry_that_cannot_fit_is_a_mistake_of_the_program() -> None:
    """Facts are small by construction; where they are not, nothing is written."""
    with pytest.raises(ValueError, match="longer than"):
        canonical(0, Entry("policy", "rules", AT, "server", "", facts={"rules": "x" * MAX_ENTRY}))


def test_times_are_in_one_form() -> None:
    """UTC, six decimals, whatever zone the clock was in."""
    assert moment(AT.astimezone(timezone(timedelta(hours=5)))) == "2026-01-02T03:04:05.678901Z"
    assert moment(AT.replace(microsecond=0)) == "2026-01-02T03:04:05.000000Z"


def test_an_entry_about_a_pin_says_what_became_of_it() -> None:
    """Who, why, from what to what, and the pin as it is afterwards; of a pin that goes, as it was."""
    write = first_pin()
    assert write.new is not None
    made = of_pin(write, write.new)
    assert (made.kind, made.subject, made.by, made.from_, made.to) == (
        "pin.pinned",
        "ghcr.io/acme/app:v1",
        "rule **",
        None,
        str(digest("one")),
    )
    assert made.facts["pin"] == {
        "version": 1,
        "digest": str(digest("one")),
        "state": "pinned",
        "pinned_at": moment(AT),
        "pinned_by": "rule **",
    }
    moved = overwrite(write.new, "two")
    assert moved.new is not None
    assert of_pin(moved, moved.new).facts["pin"]["candidate_seen_at"] == moment(LATER)
    gone = of_pin(unpin(write.new), None)
    assert (gone.kind, gone.by, gone.reason, gone.facts["pin"]["digest"]) == (
        "pin.unpinned",
        "olga",
        "retired",
        str(digest("one")),
    )


def test_entries_about_blocks_name_the_digest() -> None:
    """Who blocked what and why, and who took it back."""
    block = of_block(Block(digest("one"), "miner", "olga", AT))
    assert (block.kind, block.subject, block.by, block.reason) == (EntryKind.BLOCK, str(digest("one")), "olga", "miner")
    assert of_unblock(digest("one"), by="olga", reason="cleared", at=AT).kind == EntryKind.UNBLOCK


GOOD: dict[str, Any] = json.loads(canonical(3, Entry("block", "sha256:x", AT, "olga", "why")))


def spelled(**changes: Any) -> bytes:
    """A good entry with some keys changed; None takes one away."""
    return rfc8785.dumps({key: value for key, value in (GOOD | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Expecting value"),
        (b"[1]", "no object"),
        (b"{" * 60_000, "Expecting"),
        (b"[" * 60_000, "nested"),
        (b" " + spelled(), "not in canonical form"),
        (spelled().replace(b":3", b":3.0"), "not a number"),
        (spelled().replace(b":3", b":NaN"), "not a number"),
        (spelled().replace(b":3", b":9007199254740992"), "not a number"),
        (spelled().replace(b'"by"', b'"by":"x","by"'), "not in canonical form"),
        (spelled().replace(b"olga", b"\\u006flga"), "not in canonical form"),
        (spelled().replace(b"olga", b"\\ud800"), "surrogates"),
        (spelled().replace(b"olga", b"\xff"), "utf-8"),
        (spelled(index=None), "no index"),
        (spelled(index=True), "no index"),
        (spelled(index=-1), "no index"),
        (spelled(time=None), "no time"),
        (spelled(time="yesterday"), "no time"),
        (spelled(time="2026-01-02T03:04:05.678901"), "how a time is spelled"),
        (spelled(time="2026-01-02T03:04:05Z"), "how a time is spelled"),
        (spelled(kind=None), "no kind"),
        (spelled(to=5), "no to"),
        (b'"' + b"x" * MAX_ENTRY + b'"', "longer"),
    ],
)
def test_what_is_no_entry_in_canonical_form_is_refused(body: bytes, problem: str) -> None:
    """Bytes from a database that somebody edited, or from a log that is not ours."""
    with pytest.raises(MalformedEntry, match=f"(?i){problem}"):
        parse(body)


def test_keys_that_other_versions_add_are_kept() -> None:
    """Facts are read by name; unknown ones are no damage, in any script."""
    index, entry = parse(spelled(colour="blue", größe={"a": [1, None, True]}))
    assert (index, entry.facts) == (3, {"colour": "blue", "größe": {"a": [1, None, True]}})
