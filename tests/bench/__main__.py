"""``python -m tests.bench``: run the benchmark, print the table, save it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.bench import servers
from tests.bench.clients import Wrong
from tests.bench.ledger import ledger
from tests.bench.measures import FULL, NGINX, QUICK, REGISTRY, TAGSTONE, Bench
from tests.bench.report import Line, missed, save, table
from tests.bench.signatures import signatures
from tests.bench.watching import watching

GROUPS = ("warm", "cold", "first", "verify", "ledger", "start", "swarm", "watch")


def main() -> int:
    """Run what the command line asks for. Exit status 1 after a wrong answer, and with ``--check`` when a target is not met."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short: to see that it works, not how fast")
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure only this group (may be repeated)")
    parser.add_argument("--peers-only", action="store_true", help="leave Tagstone out")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is not met")
    parser.add_argument("--folder", type=Path, help="work in this new folder and keep it, logs and all")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="where the JSON goes")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    groups = options.only or GROUPS
    began = time.monotonic()

    def note(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    lines: list[Line] = []
    wrong: list[str] = []
    with ExitStack() as stack:
        if options.folder is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tagstone-bench-")))
        else:
            base = options.folder.resolve()
            base.mkdir(parents=True)
        upstream = stack.enter_context(servers.upstream(base))
        bench = Bench(plan, base, upstream, note)
        running = {}
        if not options.peers_only:
            running[TAGSTONE] = bench.tagstone("tagstone")
        running[REGISTRY] = bench.registry("registry")
        if {"warm", "cold"} & set(groups):
            for server in running.values():
                stack.enter_context(server)

        def take(group: str, measure: Callable[[], list[Line]]) -> None:
            """One group's lines; what goes wrong there is told at the end and takes no other group down."""
            if group not in groups:
                return
            note(group)
            try:
                lines.extend(measure())
            except Wrong as problem:
                note(f"{group} went wrong")
                wrong.append(f"{group}: {problem}")

        take("warm", lambda: bench.warm({**running, NGINX: stack.enter_context(bench.nginx())}))
        take("cold", lambda: bench.cold(running))
        if TAGSTONE in running:
            take("first", bench.first_pulls)
        take("verify", signatures)
        take("ledger", lambda: ledger(plan.ledger_entries, plan.ledger_alone, note))
        take("start", lambda: bench.starts(TAGSTONE in running))
        take("swarm", lambda: bench.swarm(TAGSTONE in running))
        if not options.peers_only:
            take("watch", lambda: watching(plan, base, note))
        note("done")
    save(options.output, lines, {"groups": list(groups), **dataclasses.asdict(plan)})
    print(table(lines))
    print(f"\n{missed(lines)} targets not met; saved to {options.output}")
    for problem in wrong:
        print(f"\nnot measured, {problem[:2000]}", file=sys.stderr)
    return 1 if wrong or (options.check and missed(lines)) else 0


if __name__ == "__main__":
    sys.exit(main())
