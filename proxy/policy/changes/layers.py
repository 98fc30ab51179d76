"""How two lists of layers differ: what was kept, what was put on top, what was built anew."""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.policy.changes.config import Config
from proxy.policy.changes.model import Image, Kind, LayerLine, Side
from proxy.policy.changes.words import hide
from storage.records import Descriptor

#: Layers of either side that are shown.
_SHOWN = 200
_COMMAND = 160
#: What differs between two builds of the same step: hashes of what was copied, and dates in seconds.
_HASH = re.compile(r"(?:sha256:)?[0-9a-f]{32,128}|@\d{9,11}(?!\d)")
_NUMBER = re.compile(r"\d+")
#: A step that any image may begin with, told by nothing but a hash: it is no sign of kinship.
_ANYBODYS = re.compile(r"(?:/bin/sh -c #\(nop\) +)?(?:ADD|COPY) (?:file|dir|multi):# in / *|ADD rootfs\.tar\S* / # buildkit|")


def kinds_of(before: Image, after: Image) -> set[Kind]:
    """What became of the layers. Histories are what the images say of themselves: they tell a rebuild, and prove nothing."""
    old, new = _digests(before), _digests(after)
    if old == new:
        return set()
    if new[: len(old)] == old:
        return {Kind.LAYERS_ADDED}
    if old[: len(new)] == new:
        return {Kind.LAYERS_REMOVED}
    if _repacked(before, after):
        return {Kind.LAYERS_REPACKED}
    if not _akin(before, after):
        return {Kind.ANOTHER_IMAGE}
    if old[0] != new[0] and len(old) == len(new) and _same_above(before, after):
        return {Kind.BASE_REBUILT}
    return {Kind.LAYERS_REPLACED}


def lines_of(before: Image | None, after: Image | None) -> tuple[LayerLine, ...]:
    """The layers of both sides from the bottom up: those in common, those of one side, those of the other, those in common."""
    left, right = _told(before), _told(after)
    shortest = min(len(left), len(right))
    low = next((n for n in range(shortest) if left[n][0].digest != right[n][0].digest), shortest)
    most = shortest - low
    high = next((n for n in range(most) if left[-1 - n][0].digest != right[-1 - n][0].digest), most)
    rows = [
        *((Side.SAME, each) for each in right[:low]),
        *((Side.BEFORE, each) for each in left[low : len(left) - high]),
        *((Side.AFTER, each) for each in right[low : len(right) - high]),
        *((Side.SAME, each) for each in right[len(right) - high :]),
    ]
    return tuple(LayerLine(side, layer.digest, layer.size, hide(command, _COMMAND)) for side, (layer, command) in rows[:_SHOWN])


def _told(image: Image | None) -> list[tuple[Descriptor, str]]:
    if image is None:
        return []
    commands = None if image.read is None else image.read.commands(len(image.layers))
    return list(zip(image.layers, commands or [""] * len(image.layers), strict=True))


def _digests(image: Image) -> tuple[object, ...]:
    return tuple(layer.digest for layer in image.layers)


def _repacked(before: Image, after: Image) -> bool:
    """Whether the configs say that the layers unpack to the same, in the same order. Clients hold them to that."""
    old, new = before.read, after.read
    if old is None or new is None or not old.diff_ids or old.diff_ids != new.diff_ids:
        return False
    return len(before.layers) == len(after.layers) == len(new.diff_ids)  # else it says that of some of them, if of any


def _same_above(before: Image, after: Image) -> bool:
    """Whether all layers but the lowest are the same, or made by the same steps."""
    if len(before.layers) > 1 and _digests(before)[1:] == _digests(after)[1:]:
        return True
    old, new = _steps(before), _steps(after)
    if not old or not new:
        return False
    if len(old) == 1:  # an image of one layer is its own base
        return _NUMBER.sub("#", old[0]) == _NUMBER.sub("#", new[0])
    return old[1:] == new[1:]


def _akin(before: Image, after: Image) -> bool:
    """Whether anything tells that one was made from the other, or both in the same way."""
    if set(_digests(before)) & set(_digests(after)):
        return True
    old, new = before.read, after.read
    if old is None or new is None:
        return True  # nobody can tell, and that is told elsewhere
    if set(old.diff_ids) & set(new.diff_ids):
        return True
    if not old.history and not new.history:
        # Tools that write no history: then what it runs, and how, says whether it is the same kind of thing.
        return _face(old) == _face(new) and _face(old) != _face(Config("", None))
    return bool(_signs(before) & _signs(after))


def _steps(image: Image) -> list[str]:
    commands = None if image.read is None else image.read.commands(len(image.layers))
    return [_HASH.sub("#", command) for command in commands or ()]


def _signs(image: Image) -> set[str]:
    """The steps that made its layers, without their hashes and numbers (of versions), as far as they are anybody's own."""
    if image.read is None:
        return set()
    made = (_HASH.sub("#", step.command).strip() for step in image.read.history if not step.empty)
    return {_NUMBER.sub("#", command) for command in made if not _ANYBODYS.fullmatch(command)}


def _face(config: Config) -> Sequence[object]:
    return (config.entrypoint, config.command, config.user, config.working_dir)
