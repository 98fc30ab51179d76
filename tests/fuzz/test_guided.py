"""Every target (:mod:`tests.fuzz.targets`), driven by atheris for three seconds, or less for what is small.

Nothing comes out but what is ours, in bounded time and memory.

``make fuzz`` does the same for as long as wanted, and keeps what it learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import guided
from tests.fuzz.planted import PLANTED
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: Findings are kept here, where the words of a failed test say, beyond the end of the test run.
FINDINGS = Path(".fuzz/findings")
WHY = guided.missing()
pytestmark = [pytest.mark.skipif(WHY is not None, reason=str(WHY)), pytest.mark.slow]


class Outcomes:
    """What came of each target, as it comes."""

    def __init__(self, outcomes: Iterator[guided.Outcome]) -> None:
        self._outcomes = outcomes
        self._known: dict[str, guided.Outcome] = {}

    def of(self, target: Target) -> guided.Outcome:
        """Wait for this one."""
        while target.name not in self._known:
            outcome = next(self._outcomes)
            self._known[outcome.target] = outcome
        return self._known[target.name]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """All that are asked for, two at a time."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    targets = [target for item in tests if isinstance(target := item.callspec.params["target"], Target)]
    running = guided.fuzz(targets, None, FINDINGS)
    yield Outcomes(running)
    running.close()


@pytest.mark.parametrize("target", PLANTED, ids=lambda target: target.name)
def test_a_mistake_that_is_planted_is_found(outcomes: Outcomes, target: Target) -> None:
    """A wrong exception behind two formats, a quadratic time, memory that is asked for: so the silence below counts."""
    outcome = outcomes.of(target)
    found = {"exception": ("IndexError",), "time": ("TooSlow", "Timeout"), "memory": ("out-of-memory",)}
    assert outcome.finding is not None
    assert [words for words in found[target.name.partition("-")[2]] if words in outcome.finding]
    (file,) = outcome.files
    assert f"python -m tests.fuzz replay {target.name} {file}" in outcome.finding
    file.unlink()  # it was found, and is nothing to mend


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_comes_out_but_ours(outcomes: Outcomes, target: Target) -> None:
    """And it got somewhere: inputs were tried, and some reached what the seeds do not."""
    outcome = outcomes.of(target)
    if outcome.finding is not None:
        pytest.fail(outcome.finding, pytrace=False)
    assert outcome.inputs > 2 * len(target.seeds)
    assert outcome.branches > 10
