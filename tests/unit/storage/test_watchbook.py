"""What an observer remembers of a log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from storage.merkle import leaf_hash
from storage.notes import Checkpoint, Note, SignerKey
from storage.watchbook import Watchbook, WatchbookUnusable
from tests.unit.storage.values import AT

KEY = SignerKey.generate("log.example")
CHECKPOINT = Checkpoint("log.example", 3, leaf_hash(b""))
NOTE = bytes(Note.signed(CHECKPOINT.text(), [KEY]))


def test_what_was_remembered_is_there_the_next_time(tmp_path: Path) -> None:
    """Keys, the last checkpoint; and what proves a fork, which changes neither."""
    path = tmp_path / "state" / "ledger.watch"
    with Watchbook(path) as book:
        assert (book.keys, book.last) == ((), None)
        book.trust(KEY.verifier, AT)
        book.trust(KEY.verifier, AT)
        book.accept(NOTE, CHECKPOINT, AT)
        book.accuse(b"\xffwhatever", "it lied", AT)
    with Watchbook(path) as book:
        book.accuse(b"\xffwhatever", "it still does", AT)
        assert book.keys == (KEY.verifier,)
        assert book.last is not None
        assert (book.last.note, book.last.checkpoint) == (NOTE, CHECKPOINT)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["at", "key"], ["at", "checkpoint"], ["at", "fork", "problem"]]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    """A crash in the middle of writing loses that line, and what comes next is whole."""
    path = tmp_path / "ledger.watch"
    with Watchbook(path) as book:
        book.trust(KEY.verifier, AT)
    path.write_bytes(path.read_bytes() + b'{"at": "2026')
    with Watchbook(path) as book:
        assert book.last is None
        book.accept(NOTE, CHECKPOINT, AT)
    with Watchbook(path) as book:
        assert book.last is not None
        assert book.last.checkpoint == CHECKPOINT


def test_a_file_is_about_one_log_and_for_one_observer(tmp_path: Path) -> None:
    """A key of another name, a second observer, a damaged line: each is said."""
    path = tmp_path / "ledger.watch"
    with Watchbook(path) as book:
        book.trust(KEY.verifier, AT)
        with pytest.raises(WatchbookUnusable, match=r"is about log\.example, not other"):
            book.trust(SignerKey.generate("other").verifier, AT)
        with pytest.raises(WatchbookUnusable, match="in use"), Watchbook(path):
            pass
    for line in ("nonsense", '{"at": "x"}', '{"key": "x"}', '{"checkpoint": "x"}'):
        path.write_text(line + "\n")
        with pytest.raises(WatchbookUnusable, match="damaged"), Watchbook(path):
            pass
    with pytest.raises(WatchbookUnusable, match="directory"), Watchbook(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"-----BEGIN SOMETHING-----", b'{"my": "notes"}', b"{"])
def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path, content: bytes) -> None:
    """Named by mistake, and without a newline at its end: it stays as it is, unless it could be the beginning of a line."""
    path = tmp_path / "notes"
    path.write_bytes(content)
    if content == b"{":
        with Watchbook(path) as book:
            assert (book.keys, book.last) == ((), None)
    else:
        with pytest.raises(WatchbookUnusable, match="damaged"), Watchbook(path):
            pass
        assert path.read_bytes() == content


def test_a_disk_that_takes_half_a_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not wholly there is not remembered; the next observer begins behind what is."""
    path, write = tmp_path / "ledger.watch", os.write
    with Watchbook(path) as book:
        book.trust(KEY.verifier, AT)
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
            with pytest.raises(WatchbookUnusable, match="only 20 of"):
                book.accept(NOTE, CHECKPOINT, AT)
    with Watchbook(path) as book:
        assert (book.keys, book.last) == ((KEY.verifier,), None)
