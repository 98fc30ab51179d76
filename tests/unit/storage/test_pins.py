"""Pins and their history."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from storage.database import Database
from storage.digest import Digest
from storage.errors import DatabaseUnavailable, PinConflict
from storage.events import EventStore
from storage.notices import Notices
from storage.pins import Past, PinStore
from storage.records import Approval, Judgement, Notice, PinAction, PinChange, PinState, PinWrite, Standing
from storage.reference import Repository
from storage.tables import pins as pins_table
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest, first_pin, overwrite, pinned, unpin


async def test_a_pin_comes_back_as_it_was_written(pins: PinStore) -> None:
    """Every field survives, times to the microsecond and in UTC."""
    write = first_pin()
    assert await pins.get(APP, "v1") is None
    pin = await pinned(pins, write)
    assert pin == write.new
    assert await pins.get(APP, "v1") == pin
    moved = await pinned(pins, overwrite(pin, "two"))
    rejected = replace(moved, rejected=digest("two"))
    change = replace(write.change, action=PinAction.REJECTED, at=LATER)
    assert await pins.apply(PinWrite(moved, rejected, change)) == replace(rejected, version=3)
    assert await pins.get(APP, "v1") == replace(rejected, version=3)
    assert await pins.get(APP, "v2") is None
    assert await pins.get(OTHER, "v1") is None


async def test_what_is_known_of_a_candidate_comes_back_as_it_was_written(pins: PinStore) -> None:
    """Who vouched, how the candidate was judged, who approved it, and that it was told to wait for too long."""
    write = first_pin()
    pin = await pinned(pins, write)
    assert (pin.signers, pin.judgement, pin.approvals, pin.stale_at) == (None, None, (), None)
    moved = overwrite(pin, "two").new
    assert moved is not None
    whole = replace(
        moved,
        signers=("key release ab12", 'keyless https://issuer.example "Ä"'),
        judgement=Judgement(Standing.OTHER_SIGNER, ("by Ümit", "not by ann"), LATER, "question"),
        approvals=(Approval(digest("two"), "Ann Ö.", "fine", AT), Approval(digest("two"), "bob", "", LATER)),
        stale_at=LATER,
    )
    assert await pins.apply(PinWrite(pin, whole, replace(write.change, at=LATER))) == replace(whole, version=2)
    assert await pins.get(APP, "v1") == replace(whole, version=2)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("judgement", "{}"),
        ("judgement", '{"standing": "maybe", "reasons": [], "at": "2026-01-01T00:00:00+00:00", "question": "q"}'),
        ("judgement", '{"standing": "passes", "reasons": [], "at": "2026-01-01T00:00:00", "question": "q"}'),
        ("approvals", "{"),
        ("approvals", '[{"digest": "sha256:short", "by": "ann", "reason": "", "at": "2026-01-01T00:00:00+00:00"}]'),
        ("approvals", '["ann"]'),
        ("signers", "[1]"),
    ],
)
async def test_a_pin_with_a_damaged_candidate_is_never_decided_on(
    pins: PinStore, database: Database, column: str, text: str
) -> None:
    """What was never written by us is an outage, and no approval."""
    await pinned(pins, first_pin())
    await database.write(lambda connection: connection.exec_driver_sql(f"UPDATE pins SET {column} = ?", (text,)).rowcount)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        await pins.get(APP, "v1")


async def test_what_a_pin_and_a_digest_had_to_do_with_each_other(pins: PinStore) -> None:
    """Whether it was pinned there, and what an operator last said of it; another tag and another digest do not count."""
    one, two, three = (digest(what) for what in ("one", "two", "three"))
    pin = await pinned(pins, first_pin())

    async def act(action: PinAction, to: Digest) -> None:
        nonlocal pin
        change = PinChange(APP, "v1", action, LATER, "ann", "why", pin.digest, to)
        after = await pins.apply(PinWrite(pin, replace(pin, reason=f"{action} {to}"), change))
        assert after is not None
        pin = after

    await act(PinAction.OVERWRITTEN, two)
    await act(PinAction.JUDGED, two)
    assert await pins.past(APP, "v1", one) == Past(held=True, rejected=False)
    assert await pins.past(APP, "v1", two) == Past(held=False, rejected=False)
    await act(PinAction.REJECTED, two)
    await act(PinAction.REJECTED, three)
    assert await pins.past(APP, "v1", two) == Past(held=False, rejected=True)
    assert await pins.past(APP, "v2", two) == Past(held=False, rejected=False)
    await act(PinAction.APPROVAL, two)
    assert await pins.past(APP, "v1", two) == Past(held=False, rejected=False)
    await act(PinAction.ROTATED, two)
    assert await pins.past(APP, "v1", two) == Past(held=True, rejected=False)
    assert await pins.past(APP, "v1", three) == Past(held=False, rejected=True)


async def test_history_keeps_every_change_in_order_also_after_unpinning(pins: PinStore) -> None:
    """Who did what, when and why, from which digest to which."""
    one = first_pin()
    pin = await pinned(pins, one)
    two = overwrite(pin, "two")
    pin = await pinned(pins, two)
    three = unpin(pin)
    assert await pins.apply(three) is None
    assert await pins.get(APP, "v1") is None
    four = first_pin(what="three", at=LATER)
    await pins.apply(four)
    assert await pins.history(APP, "v1") == [write.change for write in (one, two, three, four)]
    assert await pins.history(APP, "v2") == []


async def test_the_stored_version_follows_the_expected_one(pins: PinStore) -> None:
    """Whatever version a write carries, each change adds one."""
    write = first_pin()
    assert write.new is not None
    pin = await pinned(pins, replace(write, new=replace(write.new, version=77)))
    assert pin.version == 1
    assert (await pinned(pins, overwrite(pin, "two"))).version == 2


async def test_promise_05_the_loser_of_a_first_pull_changes_nothing(pins: PinStore, database: Database) -> None:
    """Two first pulls see different digests: one wins; the other gets a conflict and leaves no trace."""
    winner = await pins.apply(first_pin(what="one"))
    with pytest.raises(PinConflict, match=r"no pin was expected, version 1 at sha256:.* was found"):
        await pins.apply(first_pin(what="two", at=LATER))
    assert await pins.get(APP, "v1") == winner
    assert len(await pins.history(APP, "v1")) == 1
    assert await Notices(database).latest() == 1


async def test_a_write_on_an_outdated_pin_is_a_conflict(pins: PinStore, database: Database) -> None:
    """What was read before somebody else's change cannot be written over it; its events are not opened."""
    read = await pinned(pins, first_pin())
    moved = await pins.apply(overwrite(read, "two"))
    with pytest.raises(PinConflict):
        await pins.apply(overwrite(read, "three"))
    with pytest.raises(PinConflict):
        await pins.apply(unpin(read))
    assert await pins.get(APP, "v1") == moved
    assert [event.digest for event in await EventStore(database).list()] == [digest("two")]
    assert await Notices(database).latest() == 2


async def test_a_pin_that_was_removed_and_made_anew_is_another_pin(pins: PinStore) -> None:
    """Versions start anew after an unpin: the digest and the moment tell the old pin from the new."""
    read = await pinned(pins, first_pin())
    await pins.apply(unpin(read))
    with pytest.raises(PinConflict, match="no pin was found"):
        await pins.apply(overwrite(read, "two"))
    again = await pinned(pins, first_pin(at=LATER))
    assert again.version == read.version
    with pytest.raises(PinConflict):
        await pins.apply(overwrite(read, "two"))


async def test_promise_54_a_retried_write_finds_itself_done(pins: PinStore, database: Database) -> None:
    """When the acknowledgement of a commit was lost, the same write again makes no second line, event or notice."""
    first = first_pin()
    pin = await pinned(pins, first)
    assert await pins.apply(first) == pin
    moved = await pinned(pins, overwrite(pin, "two"))
    await pins.checked(APP, "v1", LATER + timedelta(seconds=1))
    again = await pins.apply(overwrite(pin, "two"))
    assert again == replace(moved, checked_at=LATER + timedelta(seconds=1))
    assert await pins.apply(unpin(moved)) is None
    assert await pins.apply(unpin(moved)) is None
    actions = [change.action for change in await pins.history(APP, "v1")]
    assert actions == [PinAction.PINNED, PinAction.OVERWRITTEN, PinAction.UNPINNED]
    assert await Notices(database).latest() == 3
    with pytest.raises(PinConflict):
        await pins.apply(replace(first, change=replace(first.change, at=LATER), expected=moved))


async def test_a_write_is_about_one_tag(pins: PinStore) -> None:
    """A change of one tag that carries the pin of another is a mistake of the caller."""
    write = first_pin()
    with pytest.raises(ValueError, match="cannot touch"):
        await pins.apply(replace(write, change=replace(write.change, tag="v2")))


async def test_checked_moves_the_clock_and_nothing_else(pins: PinStore, database: Database) -> None:
    """Noting a check neither changes the version nor tells anybody; for an unpinned tag it does nothing."""
    pin = await pinned(pins, first_pin())
    await pins.checked(APP, "v1", LATER)
    await pins.checked(APP, "v2", LATER)
    assert await pins.get(APP, "v1") == replace(pin, checked_at=LATER)
    assert len(await pins.history(APP, "v1")) == 1
    assert await Notices(database).latest() == 1
    await pins.apply(overwrite(pin, "two"))


async def test_each_change_leaves_one_notice(pins: PinStore, database: Database) -> None:
    """Other workers hear which tag changed."""
    await pins.apply(first_pin())
    await pins.apply(first_pin("v2"))
    assert await Notices(database).wait(0) == (Notice(1, "pin", f"{APP}:v1"), Notice(2, "pin", f"{APP}:v2"))


# -- listing -------------------------------------------------------------------------------------------------------------


async def test_pins_are_listed_by_name_page_by_page(pins: PinStore) -> None:
    """Names order the list, as bytes; the last name of a page leads to the next."""
    for repository, tag in ((OTHER, "latest"), (APP, "v2"), (APP, "V3"), (APP, "v1"), (APP, "v10")):
        await pins.apply(first_pin(tag, repository=repository))
    names = [f"{OTHER}:latest", f"{APP}:V3", f"{APP}:v1", f"{APP}:v10", f"{APP}:v2"]
    assert [pin.name for pin in await pins.list(limit=10)] == names
    page = await pins.list(limit=2)
    assert [pin.name for pin in page] == names[:2]
    assert [pin.name for pin in await pins.list(limit=2, after=page[-1].name)] == names[2:4]
    assert await pins.list(limit=2, after=names[-1]) == []
    assert await pins.list(limit=0) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ghcr.io/acme/app:v1", ["ghcr.io/acme/app:v1"]),
        ("ghcr.io/acme/app", []),
        ("ghcr.io/acme/*", ["ghcr.io/acme/a_p:v1", "ghcr.io/acme/app:v1", "ghcr.io/acme/app:v1.0"]),
        ("ghcr.io/acme/**", ["ghcr.io/acme/a_p:v1", "ghcr.io/acme/app/web:v1", "ghcr.io/acme/app:v1", "ghcr.io/acme/app:v1.0"]),
        ("**:v1", ["docker.io/acme/app:v1", "ghcr.io/acme/a_p:v1", "ghcr.io/acme/app/web:v1", "ghcr.io/acme/app:v1"]),
        ("*/acme/a?p:v1", ["docker.io/acme/app:v1", "ghcr.io/acme/a_p:v1", "ghcr.io/acme/app:v1"]),
        ("ghcr.io/acme/a_p:*", ["ghcr.io/acme/a_p:v1"]),
        ("ghcr.io?acme/app:v1", []),
        ("GHCR.io/acme/**", []),
        ("**%", []),
        ("ghcr.io/acme/app:v1\\*", []),
        ("", []),
    ],
)
async def test_patterns_are_globs_over_the_whole_name(pins: PinStore, pattern: str, expected: list[str]) -> None:
    """``*`` stops at a slash, ``**`` does not, ``?`` is one character; everything else means itself."""
    for name in ("app", "app/web", "a_p"):
        await pins.apply(first_pin(repository=Repository.of("ghcr.io", f"acme/{name}")))
    await pins.apply(first_pin("v1.0"))
    await pins.apply(first_pin(repository=Repository.of("docker.io", "acme/app")))
    assert [pin.name for pin in await pins.list(pattern=pattern, limit=10)] == expected


async def test_a_long_list_is_searched_in_pages(pins: PinStore, database: Database) -> None:
    """Matches far apart are found, and a state is one more condition."""
    count = 3500
    rows = [
        {
            "name": f"{APP}:t{n:05}",
            "repository": APP,
            "tag": f"t{n:05}",
            "digest": digest("one"),
            "state": PinState.OVERWRITTEN if n % 100 == 0 else PinState.PINNED,
            "pinned_at": AT,
            "pinned_by": "rule **",
            "reason": "",
            "checked_at": AT,
            "version": 1,
            "registry": APP.registry,
            "phase": n,
            "verdict_phase": n,
        }
        for n in range(count)
    ]
    await database.write(lambda connection: connection.execute(insert(pins_table), rows).close())
    assert len(await pins.list(limit=count + 1)) == count
    assert [pin.tag for pin in await pins.list(limit=9, pattern="**:t0?500")] == ["t00500", "t01500", "t02500"]
    assert [pin.tag for pin in await pins.list(limit=2, pattern="**:t0?500")] == ["t00500", "t01500"]
    assert [pin.tag for pin in await pins.list(limit=9, pattern="*", after=f"{APP}:t03000")] == []
    assert len(await pins.list(limit=99, state=PinState.OVERWRITTEN)) == count // 100
    moved = await pins.list(limit=9, pattern="**00", state=PinState.OVERWRITTEN, after=f"{APP}:t03000")
    assert [pin.tag for pin in moved] == ["t03100", "t03200", "t03300", "t03400"]
    assert await pins.list(limit=9, state=PinState.DELETED) == []
