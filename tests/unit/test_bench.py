"""The benchmark's judgement: what meets a target, what the table and the file say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.report import Line, Target, missed, save, table

_FASTER = Target(50, True, "docker-registry")
_BOUNDED = Target(200, False)


@pytest.mark.parametrize(
    ("target", "tagstone", "registry", "met"),
    [
        (_FASTER, 5000.0, 100.0, True),
        (_FASTER, 4999.0, 100.0, False),
        (_FASTER, None, 100.0, None),
        (_FASTER, 5000.0, None, None),
        (_BOUNDED, 200.0, None, True),
        (_BOUNDED, 200.1, None, False),
        (_BOUNDED, None, None, None),
    ],
)
def test_targets_bound_a_value_or_a_ratio(
    target: Target, tagstone: float | None, registry: float | None, met: bool | None
) -> None:
    """A target against a peer is about the ratio, any other about the value; what was not measured is neither met nor missed."""
    peers = {} if registry is None else {"docker-registry": registry}
    assert Line("measure", "unit", tagstone, peers, (target,)).met(target) is met


def test_the_table_says_what_was_not_reached() -> None:
    """Each target has a line of its own with its verdict; values and ratios stand beside each other."""
    lines = [
        Line("warm", "requests/s", 12000.0, {"docker-registry": 240.0, "nginx": 80000.0}, (_FASTER, Target(0.2, True, "nginx")))
    ]
    _, _, first, second = table(lines).splitlines()
    assert first.split() == [
        "warm",
        "requests/s",
        "12,000",
        "240",
        "50",
        "80,000",
        "0.15",
        "≥",
        "50",
        "×",
        "docker-registry",
        "met",
    ]
    assert second.split() == ["≥", "0.2", "×", "nginx", "NOT", "MET"]
    assert missed(lines) == 1


def test_what_is_saved_can_be_compared_later(tmp_path: Path) -> None:
    """The file holds values, ratios, verdicts, the machine and how much was measured."""
    file = tmp_path / "bench.json"
    save(file, [Line("memory", "MiB", 150.0, {"docker-registry": 75.0}, (_BOUNDED,))], {"seconds": 5})
    saved = json.loads(file.read_text())
    assert saved["lines"] == [
        {
            "name": "memory",
            "unit": "MiB",
            "tagstone": 150.0,
            "docker-registry": 75.0,
            "ratios": {"docker-registry": 2.0},
            "targets": [{"target": "≤ 200", "met": True}],
        }
    ]
    assert saved["options"] == {"seconds": 5}
    assert saved["machine"]["cpus"] >= 1
