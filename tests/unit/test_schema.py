"""The kinds of value that the configuration file knows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from proxy.schema import (
    FOLDER,
    Address,
    FilePath,
    Model,
    Secret,
    check_name,
    format_duration,
    format_moment,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_end,
    parse_rate,
    parse_share,
    parse_size,
    parse_start,
    parse_switch,
    parse_timeout,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("60s", 60.0),
        ("1.5s", 1.5),
        ("15m", 900.0),
        ("72h", 259200.0),
        ("7 d", 604800.0),
        (" 5s ", 5.0),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
        (2.5, 2.5),
    ],
)
def test_durations_are_seconds(written: object, seconds: float) -> None:
    """Text has a unit, only 0 goes without; numbers from code are seconds."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["60", "-1s", "1w", "", "s", "1h30m", "1:30", None, True, [], -1, float("nan"), "１s", "1e3s"]
)
def test_durations_without_a_unit_are_refused(written: object) -> None:
    """A bare number's unit would be a guess; so would everything else that is not one number with one unit."""
    with pytest.raises(ValueError, match="with its unit"):
        parse_duration(written)


def test_durations_have_an_end() -> None:
    """What is longer than ten years is a mistake, and what overflows is no error of Python's."""
    assert parse_duration("3650d") == 3650 * 86400
    for written in ("3651d", "999999999999d", float("inf")):
        with pytest.raises(ValueError, match="too long"):
            parse_duration(written)


def test_timeouts_are_longer_than_zero() -> None:
    """Every wait has an end, and zero would mean none in some places and at once in others."""
    assert parse_timeout("1ms") == 0.001
    with pytest.raises(ValueError, match="longer than 0"):
        parse_timeout("0")


@given(st.integers(min_value=0, max_value=3650 * 86400 * 1000))
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    """What is shown can be read back."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(60.0, "60s"), (120.0, "2m"), (259200.0, "3d"), (0.25, "250ms"), (0.0, "0s"), (90.0, "90s")]
)
def test_durations_are_written_in_the_unit_of_a_person(seconds: float, text: str) -> None:
    """The largest unit in which at least two come out whole."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("written", "size"),
    [("65536", 65536), ("64KiB", 65536), ("4 MiB", 4 << 20), ("2GiB", 2 << 30), ("1TiB", 1 << 40), ("7B", 7), ("0", 0), (12, 12)],
)
def test_sizes_are_bytes(written: object, size: int) -> None:
    """A bare number is bytes; units are powers of 1024."""
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["4MB", "4M", "-1", -1, "1.5MiB", "", None, True, [], 1.5, "9" * 5000])
def test_sizes_in_other_forms_are_refused(written: object) -> None:
    """Units of 1000 would be a guess, and so would fractions."""
    with pytest.raises(ValueError, match="write a size"):
        parse_size(written)


def test_sizes_have_an_end() -> None:
    """A size is something that a file may have."""
    with pytest.raises(ValueError, match="too large"):
        parse_size("999999999999999TiB")


@given(st.integers(min_value=0, max_value=1 << 60))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """What is shown can be read back."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("True", True),
        ("yes", True),
        ("on", True),
        ("false", False),
        ("no", False),
        ("OFF", False),
        (True, True),
        (False, False),
    ],
)
def test_switches_are_words(written: object, value: bool) -> None:
    """The words that a person takes for yes and no."""
    assert parse_switch(written) is value


@pytest.mark.parametrize("written", ["1", "0", "y", "maybe", "", None, 1, 0, []])
def test_other_switches_are_refused(written: object) -> None:
    """What is not clearly yes or no is neither."""
    with pytest.raises(ValueError, match="true or false"):
        parse_switch(written)


@pytest.mark.parametrize(
    ("written", "start", "end"),
    [
        ("2025-01-01", "2025-01-01T00:00:00Z", "2025-01-01T23:59:59.999999Z"),
        (date(2025, 1, 1), "2025-01-01T00:00:00Z", "2025-01-01T23:59:59.999999Z"),
        ("2025-01-01T12:00:00Z", "2025-01-01T12:00:00Z", "2025-01-01T12:00:00Z"),
        ("2025-01-01 12:00:00.5z", "2025-01-01T12:00:00.500000Z", "2025-01-01T12:00:00.500000Z"),
        ("2025-01-01t12:00:00+02:00", "2025-01-01T10:00:00Z", "2025-01-01T10:00:00Z"),
        (datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2024-12-31T23:00:00Z", "2024-12-31T23:00:00Z"),
        ("2024-02-29", "2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999999Z"),
    ],
)
def test_moments_are_days_or_times_in_utc(written: object, start: str, end: str) -> None:
    """A day begins with its first instant and ends with its last, in UTC; a time is what it is."""
    assert format_moment(parse_start(written)) == start
    assert format_moment(parse_end(written)) == end
    assert parse_start(start).tzinfo is UTC


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("2025-02-29", "no day of the calendar"),
        ("2025-13-01", "no day of the calendar"),
        ("2025-01-01T25:00:00Z", "no time of a day"),
        ("2025-01-01T12:00:00", "write 2025-01-01T12:00:00Z for UTC"),
        (datetime(2025, 1, 1), "has no time zone"),  # noqa: DTZ001 - what is refused
        ("0001-01-01T00:00:00+23:00", "outside the years"),
        ("01.02.2025", "write a date"),
        ("20250101", "write a date"),
        ("2025-W01-1", "write a date"),
        ("tomorrow", "write a date"),
        (None, "write a date"),
        (20250101, "write a date"),
    ],
)
def test_moments_in_other_forms_are_refused(written: object, words: str) -> None:
    """A date that does not exist, or a time without a zone, would be a guess."""
    with pytest.raises(ValueError, match=words):
        parse_start(written)


@pytest.mark.parametrize(
    ("written", "host", "port", "loopback"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000, True),
        ("127.8.8.8:0", "127.8.8.8", 0, True),
        ("[::1]:5000", "::1", 5000, True),
        ("localhost:80", "localhost", 80, True),
        ("0.0.0.0:5000", "0.0.0.0", 5000, False),
        ("[::]:5000", "::", 5000, False),
        ("mirror.example:443", "mirror.example", 443, False),
    ],
)
def test_addresses_are_host_and_port(written: str, host: str, port: int, loopback: bool) -> None:
    """Host names, IPv4 and bracketed IPv6, each with a port; what only this machine reaches is known."""
    address = Address.parse(written)
    assert (address.host, address.port, address.loopback) == (host, port, loopback)
    assert str(address) == written


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("5000", "write 127.0.0.1:5000"),
        (":5000", "0.0.0.0:5000 for everyone"),
        ("127.0.0.1", "write host:port"),
        ("127.0.0.1:65536", "write host:port"),
        ("::1:5000", "write host:port"),
        ("http://127.0.0.1:5000", "write host:port"),
        ("127.0.0.256:1", "not an IP address"),
        ("[fe80::zz]:1", "write host:port"),
        ("[1:2]:1", "not an IP address"),
        ("", "write host:port"),
        ("²:1", "write host:port"),
    ],
)
def test_other_addresses_are_refused(written: str, words: str) -> None:
    """The way out is in the words."""
    with pytest.raises(ValueError, match=words):
        Address.parse(written)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "é", "a\nb", "a" * 65])
def test_names_can_stand_in_headers(name: str) -> None:
    """A name that could break a line, a header or a message is none."""
    with pytest.raises(ValueError, match="is not a name"):
        check_name(name)


def test_paths_start_from_the_folder_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the file, ``~`` at home, absolute as they are; without a file, as they are."""
    monkeypatch.setenv("HOME", "/home/ann")
    adapter = TypeAdapter[Path](FilePath)
    context = {FOLDER: Path("/etc/tagstone")}
    seen = [adapter.validate_python(text, context=context) for text in ("a.pem", "~/a.pem", "/a.pem")]
    assert seen == [Path("/etc/tagstone/a.pem"), Path("/home/ann/a.pem"), Path("/a.pem")]
    assert adapter.validate_python("a.pem") == Path("a.pem")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "write the path"), (" ", "write the path"), ("a\0b", "write the path"), ("~nobody-here/a", "no such home")],
)
def test_what_is_no_path_is_refused(text: str, words: str) -> None:
    """An empty path would be the folder itself."""
    with pytest.raises(ValidationError, match=words):
        TypeAdapter[Path](FilePath).validate_python(text)


def test_secrets_are_not_dumped_and_errors_hide_what_was_written() -> None:
    """What is shown or logged of a model never holds its secret, and neither does its error."""

    class Holder(Model):
        secret: Secret

    assert Holder(secret="hunter2").model_dump(mode="json") == {"secret": "***"}
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"secret": ["hunter2"], "hunter2": 1})
    assert "input_value" not in str(caught.value)


def test_models_are_frozen_and_an_empty_section_is_its_defaults() -> None:
    """A value does not change after it was checked; a section whose lines are commented out is not an error."""

    class Section(Model):
        number: int = 3

    assert Section.model_validate(None) == Section()
    with pytest.raises(ValidationError, match="frozen"):
        Section().number = 4  # type: ignore[misc]  # that it cannot be set is what is shown


# -- shares and rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "share"), [("10%", 0.1), ("0%", 0.0), ("100 %", 1.0), ("2.5%", 0.025), (0.25, 0.25)])
def test_shares_are_parts_of_one(written: object, share: float) -> None:
    """Text says per cent, numbers from code are parts of 1; both are shown as they are written."""
    assert parse_share(written) == pytest.approx(share)
    assert parse_share(format_share(share)) == pytest.approx(share)


@pytest.mark.parametrize("written", ["10", "0.1", "101%", "-1%", "", None, True, [], 1.5, "%"])
def test_shares_in_other_forms_are_refused(written: object) -> None:
    """Whether 0.5 is half or half a per cent would be a guess."""
    with pytest.raises(ValueError, match="write a share"):
        parse_share(written)


@pytest.mark.parametrize(
    ("written", "rate", "text"),
    [
        ("10/s", 10.0, "10/s"),
        ("30/m", 0.5, "30/m"),
        ("500 / h", 500 / 3600, "8.333/m"),
        ("6/h", 6 / 3600, "6/h"),
        ("0", 0.0, "0"),
    ],
)
def test_rates_are_in_a_second(written: object, rate: float, text: str) -> None:
    """And are shown by the unit in which at least one comes out."""
    assert parse_rate(written) == pytest.approx(rate)
    assert format_rate(rate) == text
    assert parse_rate(rate) == rate


@pytest.mark.parametrize("written", ["10", "10/d", "-1/s", "1001/s", 1001, "", None, True, [], "s"])
def test_rates_in_other_forms_are_refused(written: object) -> None:
    """A rate needs its unit, and has an end."""
    with pytest.raises(ValueError, match="write a rate"):
        parse_rate(written)
