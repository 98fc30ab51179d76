"""Digests: what is one, what is none, and that they say what hashlib says."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import HEX_LENGTHS, Digest
from storage.errors import MalformedName

SHA256 = "sha256:" + "ab" * 32
SHA512 = "sha512:" + "cd" * 64


@pytest.mark.parametrize("text", [SHA256, SHA512], ids=["sha256", "sha512"])
def test_registered_algorithms_are_read_and_written_back(text: str) -> None:
    """Both registered algorithms survive the round trip, character by character."""
    digest = Digest.parse(text)
    assert str(digest) == text
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(":", id="colon alone"),
        pytest.param("sha256", id="no colon"),
        pytest.param("sha256:", id="no hex"),
        pytest.param("ab" * 32, id="hex alone"),
        pytest.param("md5:" + "ab" * 16, id="md5"),
        pytest.param("sha1:" + "ab" * 20, id="sha1"),
        pytest.param("sha384:" + "ab" * 48, id="sha384: a hash, not a registered algorithm"),
        pytest.param("blake3:" + "ab" * 32, id="unknown algorithm"),
        pytest.param("SHA256:" + "ab" * 32, id="upper-case algorithm"),
        pytest.param("sha256:" + "AB" * 32, id="upper-case hex"),
        pytest.param("sha256:" + "ab" * 31 + "a", id="one short"),
        pytest.param("sha256:" + "ab" * 32 + "a", id="one long"),
        pytest.param("sha256:" + "ab" * 64, id="length of the other algorithm"),
        pytest.param("sha512:" + "ab" * 32, id="sha512 with the length of sha256"),
        pytest.param("sha256:" + "ab" * 31 + "a\n", id="line break for a digit"),
        pytest.param(SHA256 + "\n", id="line break at the end"),
        pytest.param(" " + SHA256, id="blank before"),
        pytest.param("sha256::" + "ab" * 32, id="two colons"),
        pytest.param("sha256:" + "ag" * 32, id="not hex"),
        pytest.param("sha256:" + "../" * 21 + "x", id="a path"),
        pytest.param("sha256:" + "\u0661" * 64, id="digits of another script"),
        pytest.param("sha256:" + "\uff41" * 64, id="full-width letters"),
        pytest.param("sha256+b64:" + "ab" * 32, id="compound algorithm"),
    ],
)
def test_promise_17_what_is_no_digest_is_refused(text: str) -> None:
    """Unknown, upper-case and short algorithms, wrong lengths and anything that could turn into a path are refused."""
    with pytest.raises(MalformedName, match="is not a digest"):
        Digest.parse(text)


def test_promise_17_sha512_is_checked_with_sha512() -> None:
    """A digest matches under its own algorithm only."""
    data = b"layer"
    digest = Digest.parse("sha512:" + hashlib.sha512(data).hexdigest())
    assert digest.matches(data)
    assert not digest.matches(b"layer ")
    assert Digest.of(data, "sha512") == digest != Digest.of(data)
    hasher = digest.hasher()
    hasher.update(data[:2])
    hasher.update(memoryview(data)[2:])
    assert hasher.hexdigest() == digest.hex


def test_the_message_about_a_long_text_is_short() -> None:
    """What a stranger wrote is quoted, escaped, and cut."""
    with pytest.raises(MalformedName) as caught:
        Digest.parse("x\r\n" * 10_000)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_the_short_form_is_for_people() -> None:
    """Twelve characters, with the algorithm."""
    assert Digest.parse(SHA256).short == "sha256:" + "ab" * 6


@given(st.binary(max_size=200), st.sampled_from(sorted(HEX_LENGTHS)))
def test_digests_of_bytes_are_digests(data: bytes, algorithm: str) -> None:
    """What is computed can be read, equals what hashlib says, and matches these bytes."""
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert digest.matches(bytearray(data))
    assert not digest.matches(data + b"\x00")


@given(st.text(max_size=150) | st.from_regex(r"\A(sha256|sha512|SHA256|sha1):[0-9a-fA-F]{0,130}\n?\Z"))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    """No text raises anything but MalformedName; what is read is written back unchanged."""
    try:
        digest = Digest.parse(text)
    except MalformedName:
        return
    assert str(digest) == text
    assert len(digest.hex) == HEX_LENGTHS[digest.algorithm]
    assert set(digest.hex) <= set("0123456789abcdef")
