"""What a target of the fuzzers is, and what is held against every one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ParamSpec

from proxy.errors import EvidenceMalformed
from proxy.policy.verdicts import Evidence
from tests.fuzz.forms import Changer

#: Seconds of CPU that one input may cost, of whatever is within a target's longest; true ones cost a few thousandths.
#: Coverage-guided runs are slower by the counting.
SLOWEST = 1.0
_P = ParamSpec("_P")


class TooSlow(Exception):
    """An input costs more than any may."""


@dataclass(frozen=True)
class Target:
    """One reader of foreign bytes."""

    name: str
    #: Reads the bytes and holds what came of it against what must be; whether they were taken for good. Raises ``ours``, or
    #: what is a finding.
    run: Callable[[bytes], bool]
    ours: tuple[type[Exception], ...]  #: what may come out
    seeds: Sequence[bytes] = field(repr=False)
    #: Makes changed bytes right again in one regard (signs them anew), so that they come further.
    repair: Callable[[bytes], bytes] | None = None
    longest: int = 16 << 10  #: what fuzzers try
    largest: int = 1 << 20  #: about the most that such bytes may ever have
    seconds: int = 3  #: how long it is fuzzed in ``make test``: less for what is small, or is the operator's own
    words: Sequence[str] = ()  #: for the dictionary
    told: bool = True  #: whether what comes out is repeated to clients in headers

    def check(self, data: bytes) -> None:
        """Run, and raise whatever is a finding."""
        spent = self._timed(data)
        if spent > SLOWEST:
            spent = self._timed(data)  # once may be an import, or the machine
        if spent > SLOWEST:
            raise TooSlow(f"{spent:.1f} s of CPU for {len(data)} bytes")

    def _timed(self, data: bytes) -> float:
        """Run; the seconds of CPU that it took."""
        began = time.thread_time()
        try:
            self.run(data)
        except self.ours as error:
            # What is derived from a ValueError of ours is somebody else's, unless we derived it.
            if type(error) not in self.ours and type(error).__module__.partition(".")[0] not in {"proxy", "storage"}:
                raise
            if self.told:
                fit(str(error))
        return time.thread_time() - began

    def change(self, data: bytes, random: Random, raw: Callable[[bytes], bytes] | None = None) -> bytes:
        """Other bytes that are much like ``data``."""
        changed = Changer(random, raw).change(data)
        return self.repair(changed) if self.repair is not None and random.random() < 0.5 else changed


def fit(reason: str) -> None:
    """Reasons end up in HTTP headers."""
    assert reason.isascii(), f"not ASCII: {reason!a}"
    assert reason.isprintable(), f"not printable: {reason!r}"
    assert 0 < len(reason) < 2000, f"{len(reason)} characters"


def quietly(reader: Callable[_P, object], *arguments: _P.args, **more: _P.kwargs) -> bool:
    """Whether evidence could be read; if not, for a reason that is fit."""
    try:
        reader(*arguments, **more)
    except EvidenceMalformed as error:
        fit(str(error))
        return False
    return True


def told(found: Sequence[Evidence]) -> bool:
    """Every piece of evidence has a reason that is fit; whether one is accepted."""
    for piece in found:
        fit(piece.reason)
        assert all(line.isascii() and line.isprintable() and len(line) < 20_000 for line in piece.steps)
    return any(piece.accepted for piece in found)
