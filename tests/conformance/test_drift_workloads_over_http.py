"""``tagstone drift`` on the data directory of a proxy that has pinned and refused things."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from storage.errors import DatabaseUnavailable
from storage.records import EventType, Severity
from storage.running import RunningStore
from tests.harness import Proxy
from tests.simulator.images import Image, multi_arch
from tests.simulator.registry import Registry
from tests.simulator.reports import crictl_images, crictl_ps, docker_container, docker_image, pod, pods, status

DOCS = Path(__file__).parents[2] / "docs" / "drift.md"
NAME = "reg.example/open/app"


@pytest.fixture
async def upstream() -> AsyncIterator[Registry]:
    """An upstream."""
    async with Registry() as registry:
        yield registry


@pytest.fixture
async def proxy(tmp_path: Path, upstream: Registry) -> AsyncIterator[Proxy]:
    """A proxy."""
    async with Proxy(tmp_path / "proxy", upstream, top="default_registry: reg.example") as running:
        yield running


@pytest.fixture
async def images(proxy: Proxy, upstream: Registry) -> tuple[Image, Image]:
    """``v1`` as it was pinned, and what it was overwritten with, which is refused."""
    first, second = multi_arch("first"), multi_arch("second")
    upstream.add("open/app", first, "v1")
    answer = await proxy.manifest("open/app", "v1")
    assert answer.status == 200
    for child in first.images:
        assert (await proxy.manifest("open/app", child.digest)).status == 200
    upstream.add("open/app", second, "v1")
    assert (await proxy.manifest("open/app", "v1")).status == 403
    return first, second


async def tagstone(proxy: Proxy, *words: object, given: str = "") -> Result:
    """Run a command on the proxy's data directory."""
    command = [*map(str, words), "--config", str(proxy.config)]
    return await asyncio.to_thread(CliRunner().invoke, app, command, input=given, catch_exceptions=False)


async def drift(proxy: Proxy, *words: object, given: object = None, code: int) -> dict[str, Any]:
    """``tagstone drift --json``; what it prints, which is what the documentation says."""
    result = await tagstone(proxy, "drift", *words, "--json", given=json.dumps(given))
    assert result.exit_code == code, (result.stdout, result.stderr)
    answer: dict[str, Any] = json.loads(result.stdout)
    Draft202012Validator(schema()).validate(answer)
    return answer


def schema() -> dict[str, Any]:
    """The schema in the documentation."""
    written = re.findall(r"```json schema\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (found,) = (each for each in map(json.loads, written) if each.get("title") == "tagstone drift")
    Draft202012Validator.check_schema(found)
    return dict(found)


def running(name: str, image: Image, tag: str = "v1", registry: str = "reg.example") -> dict[str, Any]:
    """A pod on containerd that runs an image."""
    asked = f"{registry}/open/app:{tag}"
    return pod(name, {"app": (asked, status("app", asked, f"{registry}/open/app@{image.digest}"))})


async def test_each_container_gets_its_standing(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """What is pinned, what it was overwritten with, what nobody knows; the worst comes first, and the exit code says so."""
    first, second = images
    cluster = pods(
        running("good", first),
        running("child", first.images[0], registry="mirror.example:5000/reg.example"),
        running("bad", second),
        running("strange", multi_arch("unheard of"), "v9"),
        pod("young", {"app": (f"{NAME}:v1", None)}, phase="Pending"),
    )
    found = await drift(proxy, "-", given=cluster, code=1)
    assert found["result"] == "drift"
    assert [(each["pod"], each["status"]) for each in found["workloads"]] == [
        ("strange", "never-seen"),
        ("bad", "candidate"),
        ("child", "approved"),
        ("good", "approved"),
    ]
    bad, child = found["workloads"][1:3]
    assert (bad["pin"], bad["pinned"], bad["digest"]) == (f"{NAME}:v1", str(first.digest), str(second.digest))
    assert child["repository"] == NAME
    assert (found["ended"], found["counts"]["approved"]) == (1, 2)
    shown = await tagstone(proxy, "drift", "-", given=json.dumps(cluster))
    assert shown.exit_code == 1
    assert "candidate" in shown.stdout
    assert "4 workloads: 2 approved, 1 candidate, 1 never-seen, 1 not running" in shown.stdout


async def test_all_approved_is_zero_and_untold_is_three(proxy: Proxy, images: tuple[Image, Image], tmp_path: Path) -> None:
    """The exit codes of scripts; files are read together, so that one explains the other's IDs."""
    first = images[0]
    identifier = str(first.images[0].config.digest)
    files = {
        "ps.json": crictl_ps(("app", f"{NAME}:v1", identifier)),
        "images.json": crictl_images((identifier, [f"{NAME}:v1"], [f"{NAME}@{first.digest}"])),
        "inspect.json": [docker_container("app", f"{NAME}:v1", identifier), docker_image(identifier, [], [])],
        "untold.json": [docker_container("other", f"{NAME}:v1", "")],
        "empty.json": [],
    }
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    paths = [tmp_path / name for name in ("ps.json", "images.json", "inspect.json")]
    assert (await drift(proxy, *paths, code=0))["result"] == "approved"
    assert (await drift(proxy, "workloads", tmp_path / "untold.json", *paths, code=3))["result"] == "unknown"
    nothing = await tagstone(proxy, "drift", tmp_path / "empty.json")
    assert (nothing.exit_code, nothing.stdout) == (0, "0 workloads: nothing runs\n")
    unasked = await tagstone(proxy, "drift", "--docker", tmp_path / "no socket")
    assert (unasked.exit_code, unasked.stdout) == (3, "0 workloads: it cannot be told what runs\n")


async def test_what_was_approved_later_was_overwritten_since(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """An operator approves the overwrite: who runs the old digest is told when that was, and by whom."""
    first, second = images
    approved = await tagstone(proxy, "pins", "approve", f"{NAME}:v1", "--digest", second.digest, "--by", "olga")
    assert approved.exit_code == 0, approved.output
    found = await drift(proxy, "-", given=pods(running("old", first), running("new", second)), code=1)
    assert [(each["pod"], each["status"]) for each in found["workloads"]] == [("old", "overwritten-since"), ("new", "approved")]
    assert found["workloads"][0]["moved_by"] == "olga"
    assert "by olga" in found["workloads"][0]["reason"] or "when olga moved it" in found["workloads"][0]["reason"]
    accepted = await drift(proxy, "-", "--accept", "overwritten-since", given=pods(running("old", first)), code=0)
    assert accepted["result"] == "approved"


async def test_some_are_left_out(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """By namespace, pod and container, or by image; how many is told."""
    cluster = pods(running("good", images[0]), running("bad", images[1]))
    for pattern in ("shop/bad/*", "*/bad/**"):
        assert (await drift(proxy, "-", "--ignore", pattern, given=cluster, code=0))["ignored"] == 1
    assert (await drift(proxy, "-", "--ignore", "reg.example/**", given=cluster, code=0))["ignored"] == 2


async def test_a_mirrors_name_may_be_given(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """Without a registry in the path, a name below it means the default registry's."""
    image = images[0]
    cluster = pods(running("good", image, registry="mirror.example:5000"))
    assert (await drift(proxy, "-", given=cluster, code=1))["workloads"][0]["repository"] == "mirror.example:5000/open/app"
    assert (await drift(proxy, "-", "--mirror", "mirror.example:5000", given=cluster, code=0))["workloads"][0][
        "repository"
    ] == NAME


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "name a FILE"),
        (("nowhere.json",), 2, "nowhere.json cannot be read: No such file"),
        (("-", "--watch", "1"), 2, "--watch asks again and again"),
        (("-", "--mirror", "http://x"), 2, "--mirror: "),
        (("--command", " "), 2, "--command: it is empty"),
        (("--command", '"'), 2, "--command: "),
        (("-",), 3, "standard input: it is nothing that"),
        (("--command", """echo '{"kind": "List", "items": [{"kind": "Deployment"}]}'"""), 3, "1 entries are neither"),
        (("--command", "false"), 3, "false ended with 1"),
        (("--command", "/nowhere/kubectl get pods"), 3, "/nowhere/kubectl cannot be run: No such file"),
        (("--command", "sleep 600", "--timeout", "0.2"), 3, "it did not answer within 0.2 s"),
        (("--docker", "/nowhere/docker.sock"), 3, "docker at /nowhere/docker.sock: it cannot be asked"),
        (("--containerd", "/nowhere/s"), 3, "containerd at /nowhere/s: ctr "),
    ],
)
async def test_what_cannot_be_told_is_never_well(proxy: Proxy, words: tuple[str, ...], code: int, why: str) -> None:
    """Mistakes in the command are 2; what is no account of what runs, and sources that do not answer, are 3."""
    result = await tagstone(proxy, "drift", *words, given="{}")
    assert result.exit_code == code, result.output
    assert why in result.stderr


async def test_what_a_pod_is_called_does_not_reach_the_terminal(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """Neither escape sequences nor rich's own markup."""
    cluster = pods(
        running("\x1b[2J[red]x[/red]", images[0]), pod("p", {"c": ("\x1b]0;x\x07", status("c", "", str(images[0].digest)))})
    )
    result = await tagstone(proxy, "drift", "-", given=json.dumps(cluster))
    assert "\x1b" not in result.stdout
    assert "\\u{1b}[2J[red]x[/red]" in result.stdout


def in_turn(folder: Path, looks: Sequence[object]) -> Path:
    """A command that prints the next of these each time; None: nothing that could be read."""
    script = folder / "kubectl"
    for number, look in enumerate(looks):
        (folder / f"{number}.json").write_text("Unable to connect" if look is None else json.dumps(look))
    script.write_text(
        f"#!{sys.executable}\nimport pathlib\nat = pathlib.Path({str(folder)!r})\ncount = at / 'count'\n"
        "n = int(count.read_text()) if count.exists() else 0\ncount.write_text(str(n + 1))\n"
        "print((at / f'{n}.json').read_text())\n"
    )
    script.chmod(0o755)
    return script


async def test_a_watch_prints_changes_and_keeps_events(
    proxy: Proxy, images: tuple[Image, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is run anew each time; an event is open as long as a workload is not well, and ends with the workload."""
    first, second = images
    looks = [
        pods(running("a", first), running("b", first)),
        pods(running("a", second), running("b", first)),
        pods(running("a", second), running("b", first)),
        None,
        pods(running("b", multi_arch("unheard of"))),
        pods(running("b", first)),
    ]
    words = ("--command", f"{in_turn(tmp_path, looks)} get pods -A -o json", "--watch", "0.1", "--origin", "cluster-1")
    result = await tagstone(proxy, "drift", *words, "--looks", str(len(looks)), "--json")
    assert result.exit_code == 0, (result.stdout, result.stderr)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:
        Draft202012Validator(schema()).validate(line)
    appeared = [[(each["pod"], each["status"]) for each in line.get("appeared", ())] for line in lines]
    over = [[each["pod"] for each in line.get("over", ())] for line in lines]
    assert appeared == [[], [("a", "candidate")], [("b", "never-seen")], []]
    assert over == [[], [], ["a"], ["b"]]
    assert "not valid JSON" in result.stderr
    told = [event for event in await proxy.events() if event.type is EventType.RUNTIME_DRIFT]
    assert sorted((event.subject, event.closed_at is not None, event.severity) for event in told) == [
        ("cluster-1: kubernetes: shop/a/app", True, Severity.CRITICAL),
        ("cluster-1: kubernetes: shop/b/app", True, Severity.CRITICAL),
    ]
    (about,) = (event for event in told if event.subject.endswith("a/app"))
    assert (about.digest, about.details["status"], about.details["pinned"]) == (second.digest, "candidate", str(first.digest))


async def test_a_source_that_does_not_answer_hides_nothing_of_the_others(
    proxy: Proxy, images: tuple[Image, Image], tmp_path: Path
) -> None:
    """What the others show is told and recorded; what only the silent one could say begins nothing, and ends nothing."""
    first, second = images
    shown, broken = tmp_path / "shown.json", ("--command", "false")
    words = ("--command", f"cat {shown}", "--origin", "one")

    async def look(*more: str, code: int, workloads: object) -> list[str]:
        shown.write_text(json.dumps(workloads))
        result = await tagstone(proxy, "drift", *words, *more, "--record")
        assert result.exit_code == code, (result.stdout, result.stderr)
        return sorted(event.subject for event in await proxy.events(open_only=True) if event.type is EventType.RUNTIME_DRIFT)

    bad = "one: kubernetes: shop/a/app"
    assert await look(*broken, code=1, workloads=pods(running("a", second), running("b", first))) == [bad]
    assert await look(*broken, code=3, workloads=pods(running("b", first))) == [bad], "it may be where nobody could look"
    assert await look(*broken, code=3, workloads=pods(running("a", first))) == [], "it was seen, and is well"
    command = in_turn(tmp_path, [pods(running("a", first)), pods(running("a", second))])
    watched = ("--command", command, *broken, "--watch", "0.1", "--looks", "2", "--origin", "two", "--json")
    result = await tagstone(proxy, "drift", *watched)
    assert result.exit_code == 1
    (_, news) = map(json.loads, result.stdout.splitlines())
    assert [(each["pod"], each["status"]) for each in news["appeared"]] == [("a", "candidate")]


async def test_a_database_that_does_not_answer_ends_no_watch(
    proxy: Proxy, images: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told, and asked again."""
    first, _ = images
    shown = tmp_path / "shown.json"
    shown.write_text(json.dumps(pods(running("a", first))))
    real, asked = RunningStore.look, 0

    async def sometimes(self: RunningStore, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise DatabaseUnavailable("another process keeps it locked")
        return await real(self, *arguments)

    monkeypatch.setattr(RunningStore, "look", sometimes)
    result = await tagstone(proxy, "drift", "--command", f"cat {shown}", "--watch", "0.1", "--looks", "3")
    assert (result.exit_code, asked) == (0, 3), result.stderr
    assert "keeps it locked" in result.stderr


async def test_a_single_look_may_record_and_a_later_one_ends_it(proxy: Proxy, images: tuple[Image, Image]) -> None:
    """As a timer does: each look finds the events that the last one of the same origin left, and leaves others' alone."""
    first, second = images
    bad, good = json.dumps(pods(running("a", second))), json.dumps(pods(running("a", first)))
    untold = json.dumps(pods(pod("a", {"app": (f"{NAME}:v1", status("app", "", "nonsense"))})))

    async def look(given: str, origin: str) -> list[str]:
        await tagstone(proxy, "drift", "-", "--record", "--origin", origin, given=given)
        return sorted(event.subject for event in await proxy.events(open_only=True) if event.type is EventType.RUNTIME_DRIFT)

    one, two = ("one: kubernetes: shop/a/app", "two: kubernetes: shop/a/app")
    assert await look(bad, "one") == [one]
    assert await look(bad, "two") == [one, two]
    assert await look(bad, "one") == [one, two]
    assert await look(untold, "one") == [one, two]
    assert await look(good, "one") == [two]
    assert await look("not JSON", "two") == [two]
