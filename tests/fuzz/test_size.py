"""The largest things there are, made of the smallest parts: refused, and quickly. What fuzzers try is never as large."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.verify.envelopes import read_cose, read_jws
from proxy.verify.timestamps import verify_timestamp
from tests.fuzz.examples import examples
from tests.fuzz.forms import elements, read_der, write_der
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.notation import jws, signed_jws
from tests.fuzz.targets.sigstore import NOW, STAMPED, TRUST, TSA
from tests.simulator.notation import envelope, issue
from tests.unit.verify.evidence import IMAGE, LIMITS

#: What a large part is made of: what opens, closes or separates something somewhere.
_PIECES = (
    *(
        b"[",
        b"{",
        b"[],",
        b'{"a":[]},',
        b'"",',
        b" ",
        b"\n",
        b"a",
        b"A",
        b"=",
        b",",
        b"\0",
        b"9",
        b"\\",
        b'"',
        b"\\u0000",
        b"\xff",
    ),
    *(
        b"/",
        b".",
        b"a.",
        b"\5\0",
        b"0\2\5\0",
        b"\n\n",
        b";x  ",
        b'"a" ',
        b"<a>",
        b"&a=b",
        b"- a\n",
        b"? ",
        b"*a ",
        b"\xe2\x80\x94 a b\n",
    ),
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@examples(6)
@given(seed=st.integers(0, 10_000), number=st.integers(0, 2**32))
def test_as_much_as_there_may_be_is_read_quickly(target: Target, seed: int, number: int) -> None:
    """Some place of a seed, however deep, grown to what its reader may ever be given: time grows no faster than the bytes."""
    random = Random(number)

    def grown(part: bytes) -> bytes:
        piece, at = random.choice((*_PIECES, part[:8] or b" ")), random.randint(0, len(part))
        return part[:at] + piece * (target.largest * 3 // 4 // len(piece)) + part[at:]

    target.check(target.change(target.seeds[seed % len(target.seeds)], random, grown)[: target.largest])


@pytest.mark.parametrize(
    "body",
    [
        b"\x81" * LIMITS.signature_size,
        b"\xd2" * LIMITS.signature_size,
        b"\xd2\x84" + b"\x40" * (LIMITS.signature_size - 2),
        b"\xd2\x9a\x00\x0f\xff\x00" + b"\xf6" * (LIMITS.signature_size - 6),
        b"\xd2\xba\x00\x07\xff\x00" + b"\x18\x20" * (LIMITS.signature_size // 2 - 3),
    ],
    ids=["lists in lists", "tags of tags", "byte strings", "list of nulls", "map of numbers"],
)
def test_large_cbor_is_refused_quickly(body: bytes) -> None:
    """Depth and number of parts are bounded before anything is decoded."""
    began = time.process_time()
    with pytest.raises(EvidenceMalformed):
        read_cose(body)
    assert time.process_time() - began < 4


def test_a_large_jws_is_refused_quickly() -> None:
    """Thousands of certificates, or one that never ends, signed as they should be; and lists in lists."""
    began = time.process_time()
    tree = json.loads(envelope(issue(), IMAGE))
    for chain in (["AAAA"] * 100_000, ["A" * (LIMITS.signature_size // 2)]):
        body = signed_jws(json.dumps(tree | {"header": {"x5c": chain}}).encode())
        assert len(base64.b64encode(body)) > LIMITS.signature_size // 2
        assert not jws(body)
    with pytest.raises(EvidenceMalformed):
        read_jws(b"[" * LIMITS.signature_size, LIMITS.json_depth)
    assert time.process_time() - began < 10


def test_a_large_timestamp_is_refused_quickly() -> None:
    """Tens of thousands of elements in every place that is looked at."""
    spent = 0.0
    for number in range(40):
        for instead in ([(0x30, b"\5\0" * 20_000)], [(0xA0, b"\5\0" * 20_000)], [(0x05, b"")] * 20_000):
            tree = read_der(TSA.response(STAMPED, NOW))
            assert tree is not None
            siblings, at = list(elements(tree))[number]
            siblings[at : at + 1] = instead
            token = b"".join(map(write_der, tree))
            began = time.process_time()
            with suppress(EvidenceMalformed):
                assert verify_timestamp(token, STAMPED, TRUST.timestamp_authorities).time == NOW
            spent += time.process_time() - began
    assert spent < 5
