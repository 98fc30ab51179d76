"""Root works on the data directory of a server that runs as another user: what it leaves there, the server can read and write."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.files import OwnedFiles, Owner, owner_of
from tests.harness import Proxy
from tests.simulator.registry import Registry
from tests.tools import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act for two users")
#: Whoever this is: nobody's, and no process's.
SOMEBODY = Owner(64_321, 64_322)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder of somebody's, on a path that everybody may walk."""
    folder = Path(tempfile.mkdtemp(prefix="tagstone-owner-"))
    os.chown(folder, SOMEBODY.user, SOMEBODY.group)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_somebody() -> Iterator[None]:
    """This process has their rights."""
    os.setegid(SOMEBODY.group)
    os.seteuid(SOMEBODY.user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    """To whom everything below belongs, but what belongs to somebody."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    assert found
    every = {name: (status.st_uid, status.st_gid) for name, status in found.items()}
    return {name: owner for name, owner in every.items() if owner != (SOMEBODY.user, SOMEBODY.group)}


def by_root(proxy: Proxy, *words: str) -> None:
    """Run a command as root."""
    command = (str(Path(sys.executable).parent / "tagstone"), *words, "--config", str(proxy.config))
    done = subprocess.run(command, user=0, group=0, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)


async def test_the_server_serves_what_root_approved(scratch: Path, tmp_path: Path) -> None:
    """Root blocks a digest before there is a database, and later approves a new image: the server starts, and serves it."""
    async with Registry() as upstream:
        first = upstream.image("open/app", "v1")
        async with Proxy(tmp_path, upstream) as proxy:  # everything is imported as long as this is root
            assert (await proxy.manifest("open/app", "v1")).status == 200
            assert (await proxy.blob("open/app", first.blobs[0].digest)).status == 200
        proxy = Proxy(scratch, upstream)
        with as_somebody():
            proxy.write()
            proxy.data_dir.mkdir()
            await asyncio.to_thread(by_root, proxy, "block", f"sha256:{'0' * 64}")
            async with proxy:
                assert (await proxy.manifest("open/app", "v1")).body == first.body
                second = upstream.image("open/app", "v1", layer_size=5000)
                assert (await proxy.manifest("open/app", "v1")).status == 403
                await asyncio.to_thread(by_root, proxy, "pins", "approve", "reg.example/open/app:v1")
                assert (await proxy.manifest("open/app", "v1")).body == second.body
                assert (await proxy.blob("open/app", second.blobs[0].digest)).body == second.blobs[0].data
                assert owners(scratch) == {}


def test_root_acts_for_whoever_has_the_store(scratch: Path) -> None:
    """The first path that is there says who that is; for root's own store, and for others than root, nothing is different."""
    missing = scratch / "missing"
    assert owner_of(missing, scratch) == SOMEBODY
    assert owner_of(missing) is None
    (scratch / "of root").touch()
    assert owner_of(scratch / "of root", scratch) is None
    with as_somebody():
        assert owner_of(scratch) is None


def test_what_is_not_new_is_not_given_away(scratch: Path) -> None:
    """A second name of root's file, or a link to it, that somebody put where root would make a file."""
    secret = scratch.parent / f"{scratch.name}-secret"
    secret.touch()
    try:
        os.link(secret, scratch / "name")
        (scratch / "link").symlink_to(secret)
        files = OwnedFiles(SOMEBODY)
        files.close(files.open(scratch / "name", os.O_RDWR | os.O_CREAT))
        os.unlink(scratch / "name")
        with pytest.raises(OSError, match="symbolic links"):
            files.open(scratch / "link", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        assert secret.stat().st_uid == 0
        files.close(files.open(scratch / "fresh", os.O_RDWR | os.O_CREAT))
        assert owners(scratch) == {"link": (0, 0)}
    finally:
        secret.unlink()


async def test_a_database_behind_a_link_is_not_given_away(scratch: Path) -> None:
    """Root opens it, as it would without; it stays root's."""
    secret = scratch.parent / f"{scratch.name}-secret"
    secret.write_bytes(b"no database, but a secret of root's")
    try:
        (scratch / "tagstone.db").symlink_to(secret)
        with pytest.raises(DatabaseUnavailable):
            await Database(scratch / "tagstone.db", owner=SOMEBODY).open()
        assert secret.stat().st_uid == 0
    finally:
        secret.unlink()
