"""The process in which atheris fuzzes: ``python -m tests.fuzz.worker PLAN``, started by :mod:`tests.fuzz.guided`.

atheris counts the branches of modules that are imported under its eyes. That takes seconds, so it is done once; then each target
is fuzzed in a fork of its own, since libFuzzer ends the process that it runs in. Nothing at the top may import ``proxy`` or
``storage``. What a fork says goes into a file; on standard output there is a line with target and exit status when it has ended.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import atheris  # type: ignore[import-untyped]  # it has no types

if TYPE_CHECKING:
    from tests.fuzz.target import Target


def main(plan: Path) -> None:
    """``plan`` is JSON: how many ``at_a_time``, and ``jobs`` with ``target``, ``seeds``, ``said`` and ``arguments``."""
    planned = json.loads(plan.read_bytes())
    with atheris.instrument_imports(include=["proxy", "storage"]):
        from tests.fuzz.planted import PLANTED
        from tests.fuzz.targets import TARGETS

        targets = {target.name: target for target in (*TARGETS, *PLANTED)}
        for job in planned["jobs"]:
            for seed in targets[job["target"]].seeds:  # also imports what is imported when first needed
                targets[job["target"]].check(seed)
    for target in PLANTED:
        object.__setattr__(target, "run", atheris.instrument_func(target.run))
    running: dict[int, str] = {}
    for job in planned["jobs"]:
        if len(running) == planned["at_a_time"]:
            _await_one(running)
        forked = os.fork()
        if forked == 0:
            _fuzz(targets[job["target"]], Path(job["seeds"]), Path(job["said"]), job["arguments"])
        running[forked] = job["target"]
    while running:
        _await_one(running)


def _await_one(running: dict[int, str]) -> None:
    ended, status = os.waitpid(-1, 0)
    print(running.pop(ended), os.waitstatus_to_exitcode(status), flush=True)


def _fuzz(target: Target, seeds: Path, said: Path, arguments: list[str]) -> NoReturn:
    """Until libFuzzer ends the process: with 0 when nothing was found."""
    try:
        with said.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for number, seed in enumerate(target.seeds):
            (seeds / f"{number:03}").write_bytes(seed)

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            def raw(part: bytes) -> bytes:
                return bytes(atheris.Mutate(part, max(len(part) + 64, 64)))

            return target.change(data, random.Random(seed), raw)[:most]

        atheris.Setup([sys.argv[0], *arguments, str(seeds)], target.check, custom_mutator=mutate)
        atheris.Fuzz()
    except Exception:
        traceback.print_exc()
    sys.exit(1)  # after a finding atheris exits like this, too: on the way out libFuzzer writes down the input


if __name__ == "__main__":
    main(Path(sys.argv[1]))
