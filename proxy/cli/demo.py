"""``tagstone demo``: attacks on tags, played on this machine without a network."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli import common
from proxy.cli.common import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from proxy.demo.stories import Line, Scene

#: Columns where nobody looks at a terminal.
_WIDE = 200
_INTRODUCTION = (
    "A registry, a Tagstone in front of it, and three who pull through it: node-1 as containerd does, laptop as docker, ci "
    "as podman. Each line is what one of them was answered, or what somebody on call was told. ok: it is as it must be, "
    "refusals included."
)
_INDENT = " " * 11
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def demo(
    stories: Annotated[
        list[str] | None, typer.Argument(metavar="[STORY]...", help="Only these; --list names them.", show_default=False)
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Leave the data, keys and configuration in this folder, to look at.", show_default=False),
    ] = None,
    list_stories: Annotated[bool, typer.Option("--list", help="Name the stories and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Play attacks on tags against a real proxy: its own upstream, real keys, real pulls, what each client saw, who was told.

    Needs no network and no configuration, and leaves nothing behind. Exit code 1 where something was seen that must not be.
    """
    from proxy.demo.stories import STORIES, title

    if list_stories:
        width = max(map(len, STORIES))
        for name, story in STORIES.items():
            print(f"{name:<{width}}  {title(story)}")
        return
    unknown = [name for name in stories or () if name not in STORIES]
    if unknown:
        common.fail(f"there is no story {', '.join(unknown)}: {', '.join(STORIES)}", common.USAGE)
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
            empty = not any(keep.iterdir())
        except OSError as error:
            common.fail(f"--keep {keep}: {error.strerror or error}", common.USAGE)
        if not empty:
            common.fail(f"{keep} is not empty", common.USAGE)
    began = time.monotonic()
    scenes = common.run(lambda: _play(stories or list(STORIES), keep, as_json=as_json))
    wrong = sum(not line.right for _, scene in scenes for line in scene.lines)
    if as_json:
        common.show_json({"stories": [_story_json(name, scene) for name, scene in scenes], "wrong": wrong})
    else:
        _sum_up(scenes, wrong, keep, time.monotonic() - began)
    if wrong:
        raise typer.Exit(common.REFUSED)


async def _play(names: Sequence[str], keep: Path | None, *, as_json: bool) -> list[tuple[str, Scene]]:
    import tempfile
    from contextlib import ExitStack

    from rich.console import Console

    from proxy.demo.stage import stage
    from proxy.demo.stories import STORIES, Scene, title

    console = Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False, quiet=as_json)

    def show(line: Line) -> None:
        _show(console, line)

    played: list[tuple[str, Scene]] = []
    with ExitStack() as exits:
        folder = keep or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tagstone-demo-")))
        console.print(_INTRODUCTION)
        async with stage(folder.resolve()) as built:
            for number, name in enumerate(names, 1):
                console.print(f"\n{number}. {title(STORIES[name])}", style="bold")
                scene = Scene(built, show)
                await STORIES[name](scene)
                played.append((name, scene))
    return played


def _show(console: Console, line: Line) -> None:
    from rich.text import Text

    if line.seen is None and line.alert is None:
        console.print(f"   {line.text}", style=None if line.right else "bold red")
        return
    mark, style = ("ok", "green") if line.right else ("WRONG", "bold red")
    told = Text("   ")
    if line.seen is not None:
        seen = line.seen
        got = "nothing" if seen.digest is None else seen.digest.short
        told.append(f"{seen.client:<7} ", "cyan").append(f"{seen.asked:<34} ").append(f"{seen.status} {got:<20} ").append(
            mark, style
        )
        if seen.message:
            told.append(_below(console, seen.message), "dim")
    elif line.alert is not None:
        alert = line.alert
        told.append("alert   ", "magenta").append(f"{alert.subject:<34} ").append(f"{alert.type} ({alert.severity}) ").append(
            mark, style
        )
        told.append(_below(console, alert.message), "dim")
        if alert.changed:
            told.append(_below(console, f"what it changes: {', '.join(alert.changed)}"), "dim")
    console.print(told)


def _below(console: Console, text: str) -> str:
    """What is said of a line, indented below it; digests are cut short, for the eye."""
    brief = common.plain(_DIGEST.sub(r"\1", text))
    room = max(40, console.width - len(_INDENT))
    lines = textwrap.wrap(brief, room, break_long_words=False, break_on_hyphens=False)
    return "".join(f"\n{_INDENT}{line}" for line in lines)


def _sum_up(scenes: list[tuple[str, Scene]], wrong: int, keep: Path | None, seconds: float) -> None:
    lines = [line for _, scene in scenes for line in scene.lines]
    pulls = [line.seen for line in lines if line.seen is not None]
    refused = sum(not seen.served for seen in pulls)
    alerts = sum(line.alert is not None for line in lines)
    told = [_count(len(scenes), "story", "stories"), f"{_count(len(pulls), 'pull')} ({refused} refused)", _count(alerts, "alert")]
    print(f"\n{', '.join(told)}, {seconds:.0f} s; ", end="")
    print("everything as it must be" if not wrong else f"{wrong} lines are not as they must be")
    if keep is not None:
        config = keep / "tagstone.yaml"
        print(f"look around: tagstone pins list --config {config}")
        print(f"             tagstone pulls --image registry.demo/shop/web --config {config}")
        print(f"             tagstone ledger verify --config {config}")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _story_json(name: str, scene: Scene) -> dict[str, Any]:
    return {"story": name, "lines": [_line_json(line) for line in scene.lines]}


def _line_json(line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {"right": line.right}
    if line.seen is not None:
        seen = line.seen
        digest = None if seen.digest is None else str(seen.digest)
        told |= {"client": seen.client, "asked": seen.asked, "status": seen.status, "digest": digest, "message": seen.message}
    elif line.alert is not None:
        alert = line.alert
        told |= {"alert": alert.type, "subject": alert.subject, "severity": alert.severity, "message": alert.message}
        told |= {"changed": list(alert.changed)}
    else:
        told |= {"told": line.text}
    return told
