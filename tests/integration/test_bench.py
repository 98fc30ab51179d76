"""The benchmark runs: small and short, so that its numbers mean nothing but every measure is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import need

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.client
@pytest.mark.slow
def test_the_benchmark_measures_everything_it_promises(tmp_path: Path) -> None:
    """Tagstone serves right bytes in every measure, is asked in one fetch per blob, and every target is judged."""
    for program in ("docker-registry", "nginx", "wrk", "curl"):
        need(program)
    output = tmp_path / "bench.json"
    command = (sys.executable, "-m", "tests.bench", "--quick", "--output", str(output))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = json.loads(output.read_text())["lines"]
    assert [line["name"] for line in lines if line["tagstone"] is None] == []
    assert [target for line in lines for target in line["targets"] if target["met"] is None] == []
    fetches = next(line for line in lines if "upstream fetches" in line["name"])
    assert fetches["tagstone"] == 1
