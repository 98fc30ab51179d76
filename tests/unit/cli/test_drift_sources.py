"""Live sources of what runs: bounded in time, bytes and number, whatever they do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from proxy.cli import drift_sources
from proxy.cli.drift_sources import Command, Containerd, Docker, output
from proxy.errors import Unexaminable, WorkloadsMalformed
from tests.harness import until
from tests.simulator.reports import digest, docker_container, docker_image

WEB, GONE = digest("web").hex, digest("gone").hex
CONFIG = str(digest("config"))
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def listed(*ids: str) -> list[dict[str, object]]:
    """What docker's API answers to ``/containers/json``."""
    return [{"Id": each, "Names": ["/x"], "Image": "nginx", "ImageID": CONFIG, "State": "running"} for each in ids]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[tuple[Path, dict[str, Handler]]]:
    """A socket, and what is answered there by path; what is not there is 404."""
    answers: dict[str, Handler] = {}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        handler = answers.get(request.path)
        return web.Response(status=404, text='{"message": "no such container"}') if handler is None else await handler(request)

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    yield tmp_path / "s", answers
    await runner.cleanup()


def says(document: object, status: int = 200) -> Handler:
    """Answers this."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return handler


async def test_docker_is_asked_for_each_container(daemon: tuple[Path, dict[str, Handler]]) -> None:
    """Names and IDs from the inspection, digests from the list of images; what is gone meanwhile does not run."""
    socket, answers = daemon
    answers["/containers/json"] = says(listed(WEB, GONE))
    answers["/images/json"] = says([docker_image(CONFIG, ["nginx:1.27"], [f"nginx@{digest('index')}"])])
    answers[f"/containers/{WEB}/json"] = says(docker_container("web", "nginx:1.27", CONFIG))
    (found,) = (await Docker(socket, 60).ask()).complete()
    assert (found.name, found.image, [claim.digest for claim in found.claims]) == (
        "web",
        "nginx:1.27",
        [digest("config"), digest("index")],
    )


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"/containers/json": says({"message": "x"}, 500)}, "it answers 500 to /containers/json"),
        ({"/containers/json": says(listed(WEB)), "/images/json": says([], 403)}, "it answers 403 to /images/json"),
        ({}, "it answers 404 .*: it is no docker or podman"),
        ({"/containers/json": says(listed("../images/json"))}, "a container has no ID"),
        ({"/containers/json": says("nothing")}, "it is nothing that"),
    ],
)
async def test_answers_that_are_none_are_told(
    daemon: tuple[Path, dict[str, Handler]], answers: dict[str, Handler], why: str
) -> None:
    """What went wrong is said; no name of a container becomes part of a path."""
    daemon[1].update({"/images/json": says([])} | answers)
    with pytest.raises((Unexaminable, WorkloadsMalformed), match=why):
        await Docker(daemon[0], 60).ask()


async def test_answers_are_bounded_in_time_bytes_and_number(
    daemon: tuple[Path, dict[str, Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hangs, floods, or has more containers than can be."""
    socket, answers = daemon
    released = asyncio.Event()

    async def hang(_: web.BaseRequest) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    answers["/containers/json"] = hang
    with pytest.raises(Unexaminable, match=r"within 0\.2 s|cannot be asked"):
        await Docker(socket, 0.2).ask()
    released.set()
    monkeypatch.setattr(drift_sources, "MAX_INPUT", 1 << 20)

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not (request.transport is None or request.transport.is_closing()):
            await response.write(b" " * 65536)
        return response

    answers["/containers/json"] = flood
    with pytest.raises(Unexaminable, match="more than 1 MiB"):
        await Docker(socket, 60).ask()
    monkeypatch.setattr(drift_sources, "_MOST_CONTAINERS", 1)
    answers["/containers/json"] = says([*listed(WEB, GONE)])
    answers["/images/json"] = says([])
    with pytest.raises(Unexaminable, match="more than 1 containers"):
        await Docker(socket, 60).ask()


async def test_a_commands_output_is_read_and_its_trouble_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a shell; what it says on standard error comes with its exit code, fit for a terminal."""
    assert await output((sys.executable, "-c", "print('$HOME')"), 100) == b"$HOME\n"
    script = "import sys; sys.stderr.write('\\n\\x1b[31mForbidden\\n' + 'x' * 200000); sys.exit(3)"
    with pytest.raises(Unexaminable, match=r"ended with 3: \\u\{1b\}\[31mForbidden$"):
        await output((sys.executable, "-c", script), 100)
    with pytest.raises(Unexaminable, match="more than 1 MiB"):
        await output(("yes",), 1 << 20)
    assert Command.parse("kubectl get pods -o json --context 'a b'", 1).words[-1] == "a b"


async def test_a_command_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """Its children hold its output open; they end, too."""
    pid = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    asking = asyncio.create_task(Command(("sh", "-c", script), 600).ask())
    await until(pid.exists)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    child = int(pid.read_text())
    await until(lambda: not _lives(child))
    with pytest.raises(Unexaminable, match=r"within 0\.2 s"):
        await Command(("sh", "-c", script), 0.2).ask()


def _lives(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent's last look does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(FileNotFoundError):
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    return False


CTR = """#!{python}
import json, sys
words = sys.argv[3:]
namespace = words.pop(words.index("--namespace") + 1) if "--namespace" in words else ""
words = [word for word in words if word != "--namespace"]
told = {told!r}
key = " ".join(words)
if key not in told:
    sys.exit("ctr: " + key + ": not found")
sys.stdout.write(told[key])
"""


async def test_containerd_is_asked_by_ctr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose image is gone, one whose content is not here, one that vanishes while it is asked for."""
    index, info = digest("index"), '{{"ID": "{0}", "Image": "{1}", "SnapshotKey": "{0}", "Snapshotter": "native"}}'
    told = {
        "namespaces list -q": "default\n",
        "containers list -q": "one\ntwo\n",
        "tasks list": "TASK PID STATUS\none 1 RUNNING\n",
        "images list": f"REF TYPE DIGEST\nreg.example/a:1 t {index}\n",
        "containers info one": info.format("one", "reg.example/a:1"),
        "containers info two": info.format("two", "reg.example/gone:1"),
    }
    ctr = tmp_path / "ctr"
    ctr.write_text(CTR.format(python=sys.executable, told=told))
    ctr.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    one, two = (await Containerd(tmp_path / "s", 30).ask()).complete()
    assert (one.running, two.running) == (True, False)
    assert "is not what its snapshot was made of" in one.missing
    assert "has no image reg.example/gone:1 any more" in two.missing
    ctr.write_text(CTR.format(python=sys.executable, told={**told, "containers info one": "nonsense"}))
    with pytest.raises(WorkloadsMalformed):
        await Containerd(tmp_path / "s", 30).ask()
    del told["containers info one"]
    ctr.write_text(CTR.format(python=sys.executable, told=told))
    with pytest.raises(Unexaminable, match="not found"):
        await Containerd(tmp_path / "s", 30).ask()
