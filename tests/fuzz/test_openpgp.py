"""Whatever an OpenPGP message is made of: it is judged, and never accepted by mistake."""

from __future__ import annotations

import bz2
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.content import Lookaside
from proxy.errors import EvidenceMalformed
from proxy.policy.verdicts import Evidence
from proxy.verify.openpgp import OpenPgpKey
from proxy.verify.packets import read_message
from tests.fuzz.examples import examples
from tests.fuzz.forms import damage
from tests.fuzz.targets.openpgp import ASKED, LIMITS, NOW, PUBLIC, TRUSTED, VERIFIER, WHOLE
from tests.simulator.openpgp import packet
from tests.unit.verify.evidence import subject

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
    """The judgement, which must never raise."""
    (answer,) = VERIFIER.judge_bytes("fuzz", signature, subject(), [ASKED], TRUSTED, NOW)
    return answer


@examples(150)
@given(PACKETS)
def test_packets_in_any_order_are_judged(body: bytes) -> None:
    """Whatever is inside of what: the one accepted form is the whole message, alone, compressed at most once."""
    try:
        whole = read_message(body, LIMITS.signature_size).packets == WHOLE
    except EvidenceMalformed:
        whole = False
    assert judge(body).accepted == whole


@examples(100)
@given(PACKETS | st.binary(max_size=200) | st.randoms(use_true_random=False).map(lambda random: damage(PUBLIC, random)))
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
