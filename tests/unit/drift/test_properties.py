"""Random layers, unpacked by the real ``tar``: nothing differs. One random change afterwards: it is found, and nothing else."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.examples import examples
from tests.simulator.trees import CAPABILITY, ROOT, Put, archive, folder, unpack
from tests.unit.drift.reading import changes, file_list, look

_NAMES = ("a", "b", "c", "é", "odd\udcff name\n")
_FILE_MODES = (0o644, 0o755, 0o600, 0o4755, 0o2711)
#: None with setgid: where that is inherited, ``tar`` keeps it, and container runtimes do not.
_FOLDER_MODES = (0o755, 0o700, 0o1777, 0o711)
_IDS = st.sampled_from((0, 1000, 65534, 3_000_000)) if ROOT else st.just(os.getuid())
_GROUPS = st.sampled_from((0, 5, 100_000)) if ROOT else st.just(os.getgid())


@st.composite
def _layers(draw: st.DrawFn) -> list[list[Put]]:
    """One to four layers. Like those of real builders, each has an entry for every directory that it touches."""
    layers: list[list[Put]] = []
    for _ in range(draw(st.integers(1, 4))):
        entries: dict[str, Put] = {}
        deleted: list[Put] = []
        for _ in range(draw(st.integers(1, 8))):
            parts = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4))
            above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
            if any(name in entries and entries[name].kind != tarfile.DIRTYPE for name in above):
                continue
            for name in above:
                entries.setdefault(name, draw(_folders(name)))
            path = "/".join(parts)
            action = draw(st.sampled_from(("put", "put", "put", "delete", "clear")))
            if action == "delete":
                deleted.append(Put("/".join([*parts[:-1], f".wh.{parts[-1]}"])))
            elif action == "clear" and above:
                deleted.append(Put(f"{above[-1]}/.wh..wh..opq"))
            elif path not in entries:
                entries[path] = draw(_things(path, [each for each in entries.values() if each.kind == tarfile.REGTYPE]))
        layers.append([*entries.values(), *deleted] if draw(st.booleans()) else [*deleted, *entries.values()])
    return layers


def _folders(path: str) -> st.SearchStrategy[Put]:
    return st.builds(Put, st.just(path), st.just(tarfile.DIRTYPE), mode=st.sampled_from(_FOLDER_MODES), uid=_IDS, gid=_GROUPS)


@st.composite
def _things(draw: st.DrawFn, path: str, files: list[Put]) -> Put:
    kinds = [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]
    kinds += [tarfile.CHRTYPE] if ROOT else []
    kinds += [tarfile.LNKTYPE] if files else []
    kind = draw(st.sampled_from(kinds))
    uid, gid = draw(_IDS), draw(_GROUPS)
    if kind == tarfile.DIRTYPE:
        return draw(_folders(path))
    if kind == tarfile.SYMTYPE:
        return Put(
            path, kind, mode=0o777, uid=uid, gid=gid, link=draw(st.sampled_from(("/", "..", "a/b", "/etc/passwd", "nowhere")))
        )
    if kind == tarfile.LNKTYPE:
        target = draw(st.sampled_from(files))
        return Put(path, kind, mode=target.mode, uid=target.uid, gid=target.gid, link=target.path, capability=target.capability)
    mode = draw(st.sampled_from(_FILE_MODES))
    if kind == tarfile.CHRTYPE:
        return Put(path, kind, mode=mode, uid=uid, gid=gid, device=draw(st.sampled_from(((1, 3), (10, 200)))))
    content = draw(st.binary(max_size=2000)) if kind == tarfile.REGTYPE else b""
    capability = CAPABILITY if ROOT and kind == tarfile.REGTYPE and draw(st.booleans()) else None
    return Put(path, kind, content, mode, uid, gid, capability=capability)


@examples(25)
@given(layers=_layers())
def test_what_tar_unpacks_is_what_the_layers_give(layers: list[list[Put]]) -> None:
    """Nothing differs: not in type, content, mode, owner, target, device or capability; and nothing is missing."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        unpack(root, *layers)
        assert changes(look(root, file_list(*layers))) == {}


@examples(25)
@given(layers=_layers(), form=st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)), data=st.data())
def test_one_change_is_found_and_nothing_else(layers: list[list[Put]], form: int, data: st.DataObject) -> None:
    """Whatever is done to one path is told of that path (or of the names of the same file), and of no other."""
    layers = [
        [Put(each.path, each.kind, each.content, each.mode, each.uid, each.gid, each.link, each.device) for each in one]
        for one in layers
    ]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        unpack(root, [folder("kept")], *layers)
        files = file_list(archive([folder("kept")], form), *[archive(each, form) for each in layers])
        expected = _change(root, data)
        assert changes(look(root, files)) == expected


def _change(root: Path, data: st.DataObject) -> dict[str, str]:
    """Do something to something; what must be found."""
    paths = sorted(path for path in root.rglob("*"))
    path = data.draw(st.sampled_from(paths))
    relative = str(path.relative_to(root))
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    names = [str(each.relative_to(root)) for each in paths if each.lstat().st_ino == status.st_ino]
    match kind:
        case stat.S_IFREG:
            action = data.draw(st.sampled_from(("write", "append", "chmod", "remove", "replace")))
        case stat.S_IFDIR:
            action = data.draw(st.sampled_from(("chmod", "add", "add folder", "add link")))
        case _:
            action = data.draw(st.sampled_from(("remove", "replace")))
    match action:
        case "write":
            content = bytearray(path.read_bytes() or b"?")
            content[-1] ^= 1
            path.write_bytes(content)
            os.chmod(path, stat.S_IMODE(status.st_mode))  # writing takes setuid away
            return dict.fromkeys(names, "changed content")
        case "append":
            with path.open("ab") as opened:
                opened.write(b"\0")
            os.chmod(path, stat.S_IMODE(status.st_mode))
            return dict.fromkeys(names, "changed content")
        case "chmod":
            os.chmod(path, stat.S_IMODE(status.st_mode) ^ 0o022)
            return dict.fromkeys(names, "changed mode")
        case "remove":
            path.unlink()
            return {relative: "missing"}
        case "replace":
            path.unlink()
            path.mkdir()
            return {relative: "changed type"}
        case "add":
            (path / "new").write_bytes(b"#!/bin/sh\n")
        case "add folder":
            (path / "new").mkdir()
        case _:
            (path / "new").symlink_to("/bin/sh")
    return {f"{relative}/new": "added"}
