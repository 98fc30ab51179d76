"""Whatever is sent as an OpenPGP signature: it is judged, in bounded time and memory, and never accepted by mistake."""

from __future__ import annotations

import bz2
import json
import time
import zlib
from datetime import UTC, datetime

import pysequoia
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.content import Lookaside
from proxy.errors import EvidenceMalformed
from proxy.policy.rules import Evidence, OpenPgp, SignatureBy
from proxy.settings import Limits
from proxy.verify.model import Trusted
from proxy.verify.openpgp import OpenPgpKey
from proxy.verify.packets import read_message
from proxy.verify.simple import SimpleSignatures
from tests.fuzz.damage import ODD, altered, damaged, examples
from tests.simulator.openpgp import packet, text
from tests.unit.verify.evidence import IMAGE, REPOSITORY, subject

LIMITS = Limits()
VERIFIER = SimpleSignatures(LIMITS)
ASKED = SignatureBy(OpenPgp("acme"))
PRIVATE = pysequoia.Tsk.generate("Acme <acme@acme.test>")
PUBLIC = bytes(PRIVATE.extract_certificate())
TRUSTED = Trusted(openpgp={"acme": OpenPgpKey.load("acme", PUBLIC, Lookaside())})
TEXT = text(IMAGE.digest, f"{REPOSITORY}:1.0")
WHOLE = pysequoia.sign(PRIVATE.signer(), TEXT, armor=False)
NOW = datetime.now(UTC)
#: What a message is made of, in any order and nesting.
PACKETS = st.recursive(
    st.builds(packet, st.integers(0, 63), st.binary(max_size=40)) | st.just(WHOLE) | st.just(PUBLIC),
    lambda inner: (
        st.lists(inner, max_size=3).map(b"".join)
        | st.builds(lambda body: packet(8, b"\1" + zlib.compress(body, wbits=-15)), inner)
        | st.builds(lambda body: packet(8, b"\2" + zlib.compress(body)), inner)
        | st.builds(lambda body: packet(8, b"\3" + bz2.compress(body)), inner)
    ),
    max_leaves=6,
)


def judge(signature: bytes) -> Evidence:
    """The judgement, which must never raise, and must not take long."""
    began = time.process_time()
    (answer,) = VERIFIER.judge_bytes("fuzz", signature, subject(), [ASKED], TRUSTED, NOW)
    assert time.process_time() - began < 1
    assert answer.reason.isascii()
    assert answer.reason.isprintable()
    return answer


def test_the_seed_is_accepted() -> None:
    """Else the tests below would show nothing."""
    assert judge(WHOLE).accepted


@examples(150)
@given(damaged(WHOLE))
def test_a_damaged_signature_is_accepted_only_for_what_it_signed(body: bytes) -> None:
    """Damage may hit what is not signed (the packets' own lengths); what was signed is then still the same."""
    answer = judge(body)
    if answer.accepted:
        assert TRUSTED.openpgp["acme"].open(body, LIMITS.signature_size).payload == TEXT


@examples(100)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"\xa3" + rest))
@example(b"\x80" * 1000)
@example(b"\xff" * 1000)
def test_garbage_is_refused(body: bytes) -> None:
    """Nothing but our own words comes of it."""
    assert not judge(body).accepted


@examples(150)
@given(PACKETS)
def test_packets_in_any_order_are_judged(body: bytes) -> None:
    """Whatever is inside of what: the one accepted form is the whole message, alone, compressed at most once."""
    try:
        whole = read_message(body, LIMITS.signature_size).packets == WHOLE
    except EvidenceMalformed:
        whole = False
    assert judge(body).accepted == whole


@examples(60)
@given(altered(json.loads(TEXT), (None, "", [], {}, str(IMAGE.digest))) | ODD)
def test_signed_texts_are_judged(document: object) -> None:
    """Properly signed JSON of any shape: accepted only where ``critical`` is what it was."""
    try:
        body = json.dumps(document).encode()
    except (UnicodeEncodeError, ValueError):
        return
    answer = judge(pysequoia.sign(PRIVATE.signer(), body, armor=False))
    if answer.accepted:
        assert isinstance(document, dict)
        assert document["critical"]["image"] == json.loads(TEXT)["critical"]["image"]
        assert document["critical"]["type"] == json.loads(TEXT)["critical"]["type"]
        assert set(document) == {"critical", "optional"}


@examples(100)
@given(damaged(PUBLIC) | PACKETS | st.binary(max_size=200))
def test_keys_are_read_or_refused(body: bytes) -> None:
    """The file is the operator's own; a broken one is still told in words."""
    try:
        key = OpenPgpKey.load("acme", body, Lookaside())
    except ValueError as error:
        told = str(error)
    else:
        told = key.certificates[0].user
    assert told.isascii()
    assert told.isprintable()


@pytest.mark.parametrize("depth", [2, 10, 200])
def test_nesting_is_not_followed(depth: int) -> None:
    """A message in a message in a message: one level is opened."""
    body = WHOLE
    for _ in range(depth):
        body = packet(8, b"\1" + zlib.compress(body, wbits=-15))
    assert "compressed twice" in judge(body).reason
