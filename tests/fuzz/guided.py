"""Coverage-guided runs: one process for each target, bounded in time, memory and length, and what it found in words."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from tests.fuzz.planted import PLANTED
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: MiB of memory that a process may come to have; some 150 are the interpreter, the modules and the counters.
MOST_MEMORY = 1024
_SEED = 1
#: Seconds of the clock after which one input counts as endless, also on a machine that does other things.
ENDLESS = 25
#: Seconds between two lines of progress.
_PULSE = 10
_STATUS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+).*? corp: (\d+)")


def missing() -> str | None:
    """Why there is no coverage-guided fuzzing here; None when there is."""
    if importlib.util.find_spec("atheris") is None:
        return "atheris is not installed: it has wheels for some versions of CPython on Linux, x86-64, and for nothing else"
    return None


def find(name: str) -> Target:
    """The target of this name. Raises :class:`LookupError`."""
    for target in (*TARGETS, *PLANTED):
        if target.name == name:
            return target
    raise LookupError(f"there is no target {name!r}; there are {', '.join(target.name for target in TARGETS)}")


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    target: str
    finding: str | None  #: in words, with the input and how to run it again; None: nothing
    inputs: int  #: that were tried
    branches: int  #: that were reached
    kept: int  #: inputs, of those that reached something that the others do not
    files: tuple[Path, ...] = ()  #: the input that was found


def fuzz(
    targets: Sequence[Target],
    seconds: int | None,
    findings: Path,
    corpora: Path | None = None,
    *,
    at_a_time: int = 2,
    pulse: bool = False,
) -> Generator[Outcome]:
    """Fuzz each target for ``seconds`` (None: its own); what came of it, as each ends. Close the generator to end the rest.

    What is found stays in ``findings``; what is learned stays in ``corpora``, if there is such a folder. ``pulse``: print how it
    goes.
    """
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, ExitStack() as stack:
        folder = Path(name)
        jobs = [_job(target, seconds or target.seconds, folder, findings, corpora) for target in targets]
        plan = folder / "plan.json"
        plan.write_text(json.dumps({"at_a_time": at_a_time, "jobs": jobs}))
        # The report of this run's own coverage is not wanted: counting twice would only be slow.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE_"))}
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(plan)],
            stdout=subprocess.PIPE,
            stderr=stack.enter_context((folder / "worker").open("wb")),
            text=True,
            env=environment,
            start_new_session=True,
        )
        stack.enter_context(worker)
        stack.callback(_end, worker)
        if pulse:
            ended = Event()
            thread = Thread(target=_pulse, args=(folder, targets, ended))
            thread.start()
            stack.callback(thread.join)
            stack.callback(ended.set)
        assert worker.stdout is not None
        told = 0
        for line in worker.stdout:
            target, status = line.split()
            told += 1
            yield _outcome(target, int(status), (folder / f"{target}.said").read_text(errors="replace"), findings)
        if told != len(targets):
            raise RuntimeError(f"the fuzzer broke off:\n{(folder / 'worker').read_text(errors='replace')[-6000:]}")


def _job(target: Target, seconds: int, folder: Path, findings: Path, corpora: Path | None) -> dict[str, object]:
    seeds, corpus = folder / f"{target.name}.seeds", (corpora or folder / "corpora") / target.name
    seeds.mkdir()
    corpus.mkdir(parents=True, exist_ok=True)
    words = folder / f"{target.name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    arguments = [
        *(f"-max_total_time={seconds}", f"-rss_limit_mb={MOST_MEMORY}", f"-timeout={ENDLESS}", f"-max_len={target.longest}"),
        *("-len_control=0", f"-artifact_prefix={findings.absolute()}/{target.name}-"),
        *([f"-dict={words}"] if target.words else []),
        *([] if corpora else [f"-seed={_SEED}"]),  # without a corpus that grows, the same tries each time
        str(corpus),
    ]
    return {"target": target.name, "seeds": str(seeds), "said": str(folder / f"{target.name}.said"), "arguments": arguments}


def _end(worker: subprocess.Popen[str]) -> None:
    """The worker and what it has forked, where they have not ended."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def _outcome(target: str, status: int, said: str, findings: Path) -> Outcome:
    inputs, branches, kept = map(int, ([("0", "0", "0"), *_STATUS.findall(said)])[-1])
    if status == 0:
        return Outcome(target, None, inputs, branches, kept)
    words = "\n".join(line for line in said.splitlines() if not line.startswith(("#", "INFO:", "WARNING:", "0x")))
    lines = [f"{target}: the fuzzer ended with status {status}", words[-4000:]]
    files = tuple(map(Path, re.findall(r"Test unit written to (.*)", said)))
    for file in files:
        body = file.read_bytes()
        lines += [
            f"the input has {len(body)} bytes, in base64: {base64.b64encode(body).decode()}",
            f"run it again: python -m tests.fuzz replay {target} {file}",
        ]
    return Outcome(target, "\n".join(lines), inputs, branches, kept, files)


def _escaped(word: str) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\x{byte:02X}" for byte in word.encode())


def _pulse(folder: Path, targets: Sequence[Target], ended: Event) -> None:
    began = time.monotonic()
    before: dict[str, str] = {}
    while not ended.wait(_PULSE):
        for target in targets:
            said = folder / f"{target.name}.said"
            if said.exists() and (found := _STATUS.findall(said.read_text(errors="replace"))):
                inputs, branches, kept = found[-1]
                line = f"{target.name:14} {inputs:>9} inputs {branches:>5} branches {kept:>5} kept"
                if before.get(target.name) != line:
                    before[target.name] = line
                    print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)


# -- the command line -----------------------------------------------------------------------------------------------


def run(chosen: Sequence[str], seconds: int, at_a_time: int, kept: Path) -> int:
    """Fuzz these targets (none: all), with progress; the exit status."""
    if (why := missing()) is not None:
        print(why, file=sys.stderr)
        return 2
    targets = [find(name) for name in chosen] or list(TARGETS)
    failed = 0
    for outcome in fuzz(targets, seconds, kept / "findings", kept / "corpus", at_a_time=at_a_time, pulse=True):
        print(f"ended     {outcome.target:14} {outcome.inputs:>9} inputs {outcome.branches:>5} branches {outcome.kept:>5} kept")
        if outcome.finding is not None:
            failed += 1
            print(outcome.finding, flush=True)
    return 1 if failed else 0


def replay(name: str, paths: Sequence[Path]) -> int:
    """Hand inputs to a target; the first finding comes out as it is."""
    target = find(name)
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    for file in files:
        target.check(file.read_bytes())
    print(f"{len(files)} inputs: nothing but what may come out")
    return 0
