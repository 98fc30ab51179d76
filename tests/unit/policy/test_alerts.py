"""Who is told of what, when again, and when a digest is due."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.alerts import (
    ABOUT_IMAGES,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    CloudEvents,
    Digest,
    Filter,
    Http,
    SecretSource,
    SinkPolicy,
    pause,
)
from proxy.policy.patterns import Pattern
from storage.records import Event, EventType, Severity, sink_subject

AT = datetime(2026, 3, 14, 9, 26, tzinfo=UTC)  # a Saturday
MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1 < moment.year < 9999)


@given(attempts=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_pauses_double_up_to_a_bound_with_jitter(attempts: int, chance: float) -> None:
    """Between half and the whole of 1, 2, 4, … seconds, and never more than a quarter of an hour, however long it goes on."""
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1)) if attempts < 40 else LONGEST_PAUSE
    assert whole / 2 <= pause(attempts, lambda: chance) <= whole


@given(attempts=st.integers(1, 100), chance=st.floats(0, 1, exclude_max=True), other=st.floats(0, 1, exclude_max=True))
def test_pauses_do_not_get_shorter(attempts: int, chance: float, other: float) -> None:
    """The next is no shorter than this one, up to the bound, where only jitter is left."""
    this, following = pause(attempts, lambda: chance), pause(attempts + 1, lambda: other)
    assert following >= min(this, LONGEST_PAUSE / 2)


def event(
    kind: EventType = EventType.TAG_OVERWRITTEN, subject: str = "docker.io/library/nginx:1.27", severity: str = "warning"
) -> Event:
    """An event."""
    return Event(kind, subject, None, "m", AT, severity=Severity(severity))


def filter_of(types: str = "", severity: str = "info", images: str = "") -> Filter:
    """A filter, with patterns apart by blanks."""
    return Filter(tuple(map(Pattern.compile, types.split())), Severity(severity), tuple(map(Pattern.compile, images.split())))


@pytest.mark.parametrize(
    ("wanted", "told", "passes"),
    [
        (filter_of(), event(), True),
        (filter_of("tag.*"), event(), True),
        (filter_of("tag.*"), event(EventType.TAG_ROTATION_PENDING), True),
        (filter_of("tag.*"), event(EventType.PIN_REVOKED), False),
        (filter_of("blob.* pin.*"), event(EventType.PIN_REVOKED), True),
        (filter_of(severity="warning"), event(severity="info"), False),
        (filter_of(severity="warning"), event(severity="warning"), True),
        (filter_of(severity="warning"), event(severity="critical"), True),
        (filter_of(severity="critical"), event(severity="warning"), False),
        (filter_of(images="docker.io/library/**"), event(), True),
        (filter_of(images="docker.io/library/nginx"), event(), True),
        (filter_of(images="docker.io/library/nginx:1.*"), event(), True),
        (filter_of(images="docker.io/library/nginx:2.*"), event(), False),
        (filter_of(images="ghcr.io/** docker.io/**"), event(), True),
        (filter_of(images="ghcr.io/**"), event(), False),
        (filter_of(images="r.example__5000/app"), event(subject="r.example__5000/app:v1"), True),
        (filter_of(images="r.example:5000/app"), event(EventType.BLOB_TAMPERED, "r.example:5000/app"), True),
        (filter_of(images="r.example"), event(EventType.BLOB_TAMPERED, "r.example:5000/app"), False),
        (filter_of(images="ghcr.io/**"), event(EventType.KEY_EXPIRING, "key:acme"), True),
        (filter_of(images="ghcr.io/**"), event(EventType.SINK_FAILING, "sink:x"), True),
        (filter_of("tag.*", "critical", "docker.io/**"), event(severity="critical"), True),
        (filter_of("tag.*", "critical", "docker.io/**"), event(), False),
    ],
)  # fmt: skip
def test_a_filter_lets_through_what_all_three_parts_do(wanted: Filter, told: Event, passes: bool) -> None:
    """Type, severity, image; the last only for events that are about images."""
    assert wanted.wants(told) is passes


def test_a_sink_is_not_told_of_its_own_failure() -> None:
    """It could not be; of that of others it is."""
    sink = SinkPolicy("soc", CloudEvents(Http("https://soc.example/")))
    assert not sink.wants(event(EventType.SINK_FAILING, sink_subject("soc")))
    assert sink.wants(event(EventType.SINK_FAILING, sink_subject("oncall")))


def test_types_about_images() -> None:
    """Those whose subject names an image; the others name a key, a sink, an upstream, …."""
    assert EventType.TAG_CREATED in ABOUT_IMAGES
    assert not ABOUT_IMAGES & {EventType.SINK_FAILING, EventType.DIGEST_BLOCKED, EventType.KEY_EXPIRING, EventType.BLOB_DAMAGED}


# -- digests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "digest", "due"),
    [
        ("daily at 08:00", Digest(time(8)), datetime(2026, 3, 15, 8, tzinfo=UTC)),
        ("daily at 09:27", Digest(time(9, 27)), datetime(2026, 3, 14, 9, 27, tzinfo=UTC)),
        ("Daily  at 09:26", Digest(time(9, 26)), datetime(2026, 3, 15, 9, 26, tzinfo=UTC)),
        ("weekly at 08:00", Digest(time(8), 0), datetime(2026, 3, 16, 8, tzinfo=UTC)),
        ("weekly on saturday at 09:00", Digest(time(9), 5), datetime(2026, 3, 21, 9, tzinfo=UTC)),
    ],
)
def test_a_digest_is_due(text: str, digest: Digest, due: datetime) -> None:
    """At the next time of day, on the right day of the week; what is written is read back."""
    assert Digest.parse(text) == digest
    assert digest.after(AT) == due
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text", ["", "daily", "daily at 8", "daily at 24:00", "daily at 08:60", "hourly at 08:00", "daily on monday at 08:00"]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    """With the form to write."""
    with pytest.raises(ValueError, match="write `daily at 08:00`"):
        Digest.parse(text)


def test_a_day_that_there_is_not_is_refused() -> None:
    """With the days that there are."""
    with pytest.raises(ValueError, match="`caturday` is no day of the week"):
        Digest.parse("weekly on caturday at 08:00")


@given(moment=MOMENTS, hour=st.integers(0, 23), minute=st.integers(0, 59), weekday=st.none() | st.integers(0, 6))
def test_the_next_digest_is_the_first_that_comes(moment: datetime, hour: int, minute: int, weekday: int | None) -> None:
    """Later than now, by a day or a week at most, at its time; and nothing comes between."""
    digest = Digest(time(hour, minute), weekday)
    due = digest.after(moment)
    assert moment < due <= moment + timedelta(days=1 if weekday is None else 7)
    assert (due.hour, due.minute, due.second) == (hour, minute, 0)
    assert weekday is None or due.weekday() == weekday
    assert digest.after(due - timedelta(microseconds=1)) == due


def test_addresses_are_not_shown() -> None:
    """A policy that finds its way into a log holds no secret; where a secret is, it says."""
    assert "token" not in repr(Http("https://x.example/token"))
    assert str(SecretSource(variable="HOOK")) == "the environment variable HOOK"
