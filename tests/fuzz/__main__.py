"""Run the coverage-guided fuzzer, or one input.

::

    python -m tests.fuzz run [--seconds 600] [TARGET …]     every target, or these; findings and corpora are kept in .fuzz
    python -m tests.fuzz replay TARGET FILE …               without the fuzzer: what comes of these inputs (files, folders)
    python -m tests.fuzz list
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

KEPT = Path(".fuzz")


def main() -> int:
    """Do what the command line says; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers of foreign bytes.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="fuzz, and keep what was learned under .fuzz")
    run.add_argument("--seconds", type=int, default=600, help="for each target")
    run.add_argument("--at-a-time", type=int, default=os.cpu_count() or 1, help="how many targets")
    run.add_argument("targets", nargs="*", metavar="TARGET")
    replay = commands.add_parser("replay", help="hand inputs to a target, without the fuzzer")
    replay.add_argument("target")
    replay.add_argument("inputs", nargs="+", type=Path, metavar="FILE")
    commands.add_parser("list", help="name the targets")
    chosen = parser.parse_args()
    from tests.fuzz import guided
    from tests.fuzz.targets import TARGETS

    match chosen.command:
        case "run":
            return guided.run(chosen.targets, chosen.seconds, chosen.at_a_time, KEPT)
        case "replay":
            return guided.replay(chosen.target, chosen.inputs)
        case _:
            print("\n".join(target.name for target in TARGETS))
            return 0


if __name__ == "__main__":
    sys.exit(main())
