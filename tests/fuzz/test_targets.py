"""Whatever comes, it is read or refused: every target (:mod:`tests.fuzz.targets`), driven by Hypothesis.

Where :mod:`tests.fuzz.test_guided` looks for what was never reached, this runs everywhere, and shrinks what it finds.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.examples import examples
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ALL = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
#: Foreign to every format, or too much of one.
ODD = (
    *(b"", b"\0", b"{}", b"[]", b"null", b"\xff\xfe", b'"\\ud800"', b"{" * 5000, b"[" * 5000, b"\x30\x80\0\0", b"\x30" * 4000),
    *(b"\xd2\x84\x5b\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd2\x9b\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd8\x1c\x81\xd8\x1d\x00"),
    *(
        b'{"a":' * 3000,
        b"9" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b"-----BEGIN CERTIFICATE-----\n" * 200,
        b"a: &a [*a]",
        b"? - ? - ? -",
    ),
)


def test_names_are_unique() -> None:
    """A name is a folder of what was learned, and a word on the command line."""
    assert len({target.name for target in TARGETS}) == len(TARGETS) > 15


@ALL
def test_the_ground_is_good(target: Target) -> None:
    """What is changed here was taken for good before: else it would show nothing that the changed is refused."""
    assert target.run(target.seeds[0])
    assert max(map(len, target.seeds)) <= target.longest
    for seed in target.seeds:
        target.check(seed)


@ALL
@examples(150)
@given(seed=st.integers(0, 10_000), random=st.randoms(use_true_random=False))
def test_what_is_changed_is_read_or_refused(target: Target, seed: int, random: Random) -> None:
    """With all that the target says must be so where it is accepted."""
    target.check(target.change(target.seeds[seed % len(target.seeds)], random)[: target.longest])


@ALL
@examples(20)
@given(data=st.binary(max_size=120))
@example(data=b"")
def test_anything_at_all_is_read_or_refused(target: Target, data: bytes) -> None:
    """Bytes that were never meant."""
    target.check(data)


@ALL
@pytest.mark.parametrize("data", ODD, ids=lambda data: ascii(data[:12])[2:-1])
def test_what_is_odd_is_read_or_refused(target: Target, data: bytes) -> None:
    """Numbers, depths and lengths that stop other readers."""
    target.check(data)
