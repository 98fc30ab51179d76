"""Seals and the book of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.files import Files, Tree
from storage.seals import Seal, SealBook
from tests.unit.storage.faulty import CountedFiles, FailingFiles

DIGEST = Digest.of(b"")
SEAL = Seal(1, 2, 3, 4)


def sidecar(root: Path, digest: Digest = DIGEST) -> Path:
    """Where a seal is kept."""
    return root / "seals" / digest.algorithm / digest.hex[:2] / digest.hex


def test_a_seal_reads_what_it_wrote() -> None:
    """Written and read again a seal is the same."""
    assert Seal.parse(bytes(SEAL)) == SEAL


@pytest.mark.parametrize(
    "text",
    [b"", b"1 1 2 3 4", b"1 1 2 3\n", b"1 1 2 3 4 5\n", b"2 1 2 3 4\n", b"1 1 2 3 x\n", b"1 1 2 \xff 4\n", b"1 1 2 3 4\n5"],
)
def test_anything_else_is_no_seal(text: bytes) -> None:
    """A torn, newer or foreign sidecar counts as missing."""
    assert Seal.parse(text) is None


def test_a_seal_shows_every_change(tmp_path: Path) -> None:
    """Size, content, permissions and identity of a file are all in its seal."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    seals = [Seal.of(path.stat())]
    os.utime(path, ns=(0, 0))
    seals.append(Seal.of(path.stat()))
    path.write_bytes(b"four")
    seals.append(Seal.of(path.stat()))
    copy = tmp_path / "copy"
    copy.write_bytes(b"four")
    seals.append(Seal.of(copy.stat()))
    assert len(set(seals)) == 4


def test_a_seal_is_known_to_other_processes(root: Path) -> None:
    """What one book wrote another holds; another seal it does not."""
    SealBook(Tree(root, Files())).write(DIGEST, SEAL)
    other = SealBook(Tree(root, Files()))
    assert other.holds(DIGEST, SEAL)
    assert not other.holds(DIGEST, Seal(1, 2, 3, 5))
    assert sidecar(root).stat().st_mode & 0o777 == 0o600
    assert os.listdir(root / "spool") == []


def test_a_held_seal_is_answered_from_memory(root: Path) -> None:
    """The second question about a seal touches no file."""
    SealBook(Tree(root, Files())).write(DIGEST, SEAL)
    files = CountedFiles()
    book = SealBook(Tree(root, files))
    assert book.holds(DIGEST, SEAL)
    before = files.calls.total()
    assert before > 0
    assert book.holds(DIGEST, SEAL)
    assert files.calls.total() == before


def test_the_newest_seal_counts(root: Path) -> None:
    """A seal that another process wrote since replaces the remembered one."""
    book, other = SealBook(Tree(root, Files())), SealBook(Tree(root, Files()))
    book.write(DIGEST, SEAL)
    newer = Seal(1, 9, 9, 9)
    other.write(DIGEST, newer)
    assert book.holds(DIGEST, newer)


def test_memory_is_bounded(root: Path) -> None:
    """The seal used longest ago is read from its file again."""
    files = CountedFiles()
    book = SealBook(Tree(root, files), remembered=2)
    digests = [Digest.of(bytes([n])) for n in range(3)]
    for digest in digests[:2]:
        book.write(digest, SEAL)
    assert book.holds(digests[0], SEAL)
    book.write(digests[2], SEAL)
    files.calls.clear()
    assert book.holds(digests[0], SEAL)
    assert book.holds(digests[2], SEAL)
    assert files.calls["open"] == 0
    assert book.holds(digests[1], SEAL)
    assert files.calls["open"] > 0


def test_forgetting_removes_the_sidecar(root: Path) -> None:
    """A forgotten seal is nowhere; forgetting twice is fine."""
    book = SealBook(Tree(root, Files()))
    book.forget(DIGEST)
    book.write(DIGEST, SEAL)
    book.forget(DIGEST)
    book.forget(DIGEST)
    assert not book.holds(DIGEST, SEAL)
    assert not sidecar(root).exists()


def test_promise_38_a_linked_sidecar_is_not_followed(root: Path, tmp_path: Path) -> None:
    """A link in the place of a seal is no seal."""
    book = SealBook(Tree(root, Files()))
    book.write(DIGEST, SEAL)
    elsewhere = tmp_path / "elsewhere"
    sidecar(root).rename(elsewhere)
    sidecar(root).symlink_to(elsewhere)
    assert not SealBook(Tree(root, Files())).holds(DIGEST, SEAL)


@pytest.mark.parametrize("step", ["make_folder", "open", "write", "rename"])
def test_a_seal_that_cannot_be_written_is_kept_in_memory(root: Path, step: str) -> None:
    """A full disk costs the next process a hash, this one nothing; no temporary file stays."""
    files = FailingFiles()
    book = SealBook(Tree(root, files))
    files.arm(OSError(28, "No space left on device"), only=step, lasting=True)
    book.write(DIGEST, SEAL)
    assert book.holds(DIGEST, SEAL)
    files.disarm()
    assert not SealBook(Tree(root, files)).holds(DIGEST, SEAL)
    assert not (root / "spool").exists() or os.listdir(root / "spool") == []


@pytest.mark.parametrize("step", ["open", "read_into"])
def test_a_seal_that_cannot_be_read_is_missing(root: Path, step: str) -> None:
    """An unreadable sidecar sends the blob to be hashed, it does not fail."""
    files = FailingFiles()
    SealBook(Tree(root, files)).write(DIGEST, SEAL)
    files.arm(OSError(5, "Input/output error"), only=step, lasting=True)
    book = SealBook(Tree(root, files))
    assert not book.holds(DIGEST, SEAL)
    files.disarm()
    assert book.holds(DIGEST, SEAL)


def test_a_seal_that_cannot_be_removed_is_left(root: Path) -> None:
    """A stale sidecar matches no other file, so that leaving it is harmless."""
    files = FailingFiles()
    book = SealBook(Tree(root, files))
    book.write(DIGEST, SEAL)
    files.arm(OSError(30, "Read-only file system"), only="remove")
    book.forget(DIGEST)
    assert files.failed == 1
