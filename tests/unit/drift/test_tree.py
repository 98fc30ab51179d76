"""Layers laid over one another, read as a table: what each does, and what there is then."""

from __future__ import annotations

import tarfile

import pytest

from proxy.drift.model import Bounds, Kind
from proxy.drift.tree import FileList, Layer
from proxy.drift.unpacking import Budget
from proxy.errors import LayerRefused
from tests.simulator.trees import Put, archive, file, folder, hardlink, symlink
from tests.unit.drift.reading import file_list, read


def paths(files: FileList) -> dict[str, str]:
    """Path → type, and where a link leads."""
    told = {}
    for path, node in files:
        kind = "implied" if node.inode is None else node.inode.facts.kind.value
        target = b"" if node.inode is None else node.inode.facts.target
        told[path.decode()] = f"{kind} {target.decode()}".strip()
    return told


LAYERS: dict[str, tuple[list[list[Put]], dict[str, str]]] = {
    "a whiteout": ([[file("a"), file("b")], [Put(".wh.a")]], {"b": "file"}),
    "a whiteout of a folder": ([[folder("d"), file("d/a")], [Put(".wh.d")]], {}),
    "a whiteout of nothing": ([[file("a")], [Put(".wh.b")]], {"a": "file"}),
    "a whiteout never concerns its own layer": ([[file("a", b"1")], [file("a", b"2"), Put(".wh.a")]], {"a": "file"}),
    "a whiteout and a new folder": (
        [[folder("d"), file("d/old")], [Put(".wh.d"), folder("d"), file("d/new")]],
        {"d": "directory", "d/new": "file"},
    ),
    "an opaque folder": (
        [[folder("d"), file("d/old")], [folder("d"), file("d/new"), Put("d/.wh..wh..opq")]],
        {"d": "directory", "d/new": "file"},
    ),
    "an opaque root": ([[file("a")], [Put(".wh..wh..opq"), file("b")]], {"b": "file"}),
    "AUFS' own files": (
        [[file(".wh..wh.plnk/1.2"), folder(".wh..wh.orph"), file("a/.wh..wh.x"), folder("a")]],
        {"a": "directory"},
    ),
    "a file over a folder": ([[folder("d"), file("d/a")], [file("d")]], {"d": "file"}),
    "a folder over a file": ([[file("d")], [folder("d"), file("d/a")]], {"d": "directory", "d/a": "file"}),
    "a folder over a folder": ([[folder("d", 0o700), file("d/a")], [folder("d")]], {"d": "directory", "d/a": "file"}),
    "a folder over a link": (
        [[folder("to"), symlink("d", "to")], [folder("d"), file("d/a")]],
        {"to": "directory", "d": "directory", "d/a": "file"},
    ),
    "the last of two": ([[file("a"), symlink("a", "b"), folder("a")]], {"a": "directory"}),
    "a file over a folder of the same layer": ([[folder("d"), file("d/a"), file("d")]], {"d": "file"}),
    "no entry for what is above": ([[file("x/y/z")]], {"x": "implied", "x/y": "implied", "x/y/z": "file"}),
    "links of the same layer are followed": (
        [[folder("usr/lib"), symlink("lib", "usr/lib"), file("lib/a"), symlink("l2", "/usr/../lib"), file("l2/b")]],
        {
            "usr": "implied",
            "usr/lib": "directory",
            "usr/lib/a": "file",
            "usr/lib/b": "file",
            "lib": "symlink usr/lib",
            "l2": "symlink /usr/../lib",
        },
    ),
    "links that lead out of the root stay in it": (
        [[symlink("up", "../../etc"), file("up/passwd")]],
        {"up": "symlink ../../etc", "etc": "implied", "etc/passwd": "file"},
    ),
    "links of lower layers are replaced": (
        [[folder("usr"), symlink("lib", "usr")], [file("lib/a")]],
        {"usr": "directory", "lib": "implied", "lib/a": "file"},
    ),
}


@pytest.mark.parametrize(("layers", "expected"), LAYERS.values(), ids=LAYERS)
def test_what_layers_give(layers: list[list[Put]], expected: dict[str, str]) -> None:
    """One row, one rule of the specification of layers, or of overlayfs."""
    assert paths(file_list(*layers)) == expected


def test_where_links_of_lower_layers_are_followed() -> None:
    """As where layers are unpacked one over the other; that it makes a difference is told in both ways."""
    layers = [[folder("usr"), file("usr/old"), symlink("lib", "usr")], [file("lib/a"), Put("lib/.wh.old")]]
    followed = file_list(*layers, follow=True)
    assert paths(followed) == {"usr": "directory", "usr/a": "file", "lib": "symlink usr"}
    assert file_list(*layers).crossings == (b"lib",)
    assert file_list(layers[0]).crossings == ()


def test_hard_links_are_one_file() -> None:
    """Under all their names, also when one is replaced later; owner and mode of each header are heeded."""
    first = [file("a", b"1", 0o644), Put("b", tarfile.LNKTYPE, mode=0o600, uid=5, gid=6, link="./a"), hardlink("c", "b")]
    files = file_list(first, [file("a", b"2")])
    a, b, c = (files.find(name) for name in (b"a", b"b", b"c"))
    assert a is not None
    assert b is not None
    assert c is not None
    assert a.inode is not b.inode
    assert b.inode is c.inode
    assert b.inode is not None
    assert b.inode.modes == (0o644, 0o600)


def test_hard_links_into_lower_layers() -> None:
    """Can only be unpacked where layers are unpacked one over the other."""
    layers = [[file("a", b"1")], [hardlink("b", "a")]]
    node = file_list(*layers, follow=True).find(b"b")
    assert node is not None
    assert node.inode is not None
    assert node.inode.facts.kind is Kind.FILE
    with pytest.raises(LayerRefused, match="not there before it"):
        file_list(*layers)


def test_every_content_is_known() -> None:
    """What any layer holds, hidden or not, by its first path."""
    files = file_list([file("a", b"1")], [file("a", b"2")])
    assert set(files.contents.values()) == {b"a"}
    assert len(files.contents) == 2


BROKEN: dict[str, tuple[list[Put], str]] = {
    "below a file": ([file("a"), file("a/b")], "is no directory"),
    "a loop of links": ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many symbolic links"),
    "a hard link to nothing": ([hardlink("a", "b")], "not there before it"),
    "a hard link to a folder": ([folder("d"), hardlink("a", "d")], "to the directory /d"),
    "a hard link to the root": ([hardlink("a", "/")], "to the root"),
    "a whiteout of no name": ([Put("d/.wh.")], "deletes what is no name"),
    "a whiteout of the folder itself": ([Put("d/.wh..")], "deletes what is no name"),
    "links that unfold": (
        [symlink("l0", "/".join(["x"] * 200)), symlink("l1", "/".join(["l0", "y" * 9, *["z"] * 100])), file("l1/a")],
        "folders deep",
    ),
}


@pytest.mark.parametrize(("layer", "told"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_unpacked_is_refused(layer: list[Put], told: str) -> None:
    """With the path."""
    with pytest.raises(LayerRefused, match=told):
        file_list(layer)


def test_folders_that_no_entry_describes_are_counted() -> None:
    """One entry may need hundreds of folders: they are entries, too, and so are their names."""
    (deep,) = read(archive([file("a/b/c/d")]))
    for bounds, told in ((Bounds(entries=2), "more than 2 entries"), (Bounds(names=2), "more than 2 bytes")):
        with pytest.raises(LayerRefused, match=told):
            Layer(0, budget=Budget(bounds)).add(deep)
    Layer(0, budget=Budget(Bounds(entries=3))).add(deep)


def test_entries_for_the_root() -> None:
    """Say what it is; what is no directory says nothing."""
    root = file_list([folder("./", 0o700)], [file("a")]).root
    assert root.inode is not None
    assert root.inode.facts.mode == 0o700
    assert file_list([symlink(".", "x")]).root.inode is None
