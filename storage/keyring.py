"""The keys of the ledger's checkpoints, in one file of the data directory (0600), which all workers and the commands read.

The first line is the key that signs. Those before it follow, newest first: one that still signs beside it, ``until`` a time, and
of the others the public half alone, so that what they signed can still be checked::

    PRIVATE+KEY+tagstone/1f0c…+8e2eb353+AQAB…
    PRIVATE+KEY+tagstone/1f0c…+1c0ffee1+AQIC… until 2026-12-22T12:00:00Z
    tagstone/1f0c…+5eed5eed+AQOh…
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.errors import KeyUnusable
from storage.files import owner_of
from storage.locking import locked
from storage.notes import MalformedNote, SignerKey, VerifierKey

#: Bytes of the longest key file that is read: some hundred rotations.
_MAX_FILE = 64 << 10
_UNTIL = " until "
#: Seconds that another process is waited for which changes the key.
CHANGE_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, those that sign beside it until a time, and the public halves of those before."""

    current: SignerKey
    leaving: tuple[tuple[SignerKey, datetime], ...] = ()
    former: tuple[VerifierKey, ...] = ()

    def signers(self, now: datetime) -> tuple[SignerKey, ...]:
        """Who signs now."""
        return (self.current, *(key for key, until in self.leaving if now < until))

    @property
    def verifiers(self) -> tuple[VerifierKey, ...]:
        """All keys that ever signed, newest first."""
        return (self.current.verifier, *(key.verifier for key, _ in self.leaving), *self.former)

    def rotated(self, now: datetime, until: datetime) -> Keyring:
        """With a new key of the same name; the present one signs beside it ``until`` then.

        Where that is over at once, so it is for all others: they are in the same file, and in whose hands that is nobody knows.
        """
        new = SignerKey.generate(self.current.name)
        leaving = ((self.current, until), *self.leaving)
        stays = tuple(each for each in leaving if now < min(until, each[1]))
        gone = tuple(each[0].verifier for each in leaving if each not in stays)
        return Keyring(new, stays, (*gone, *self.former))


def load(path: Path) -> Keyring | None:
    """Read the key file; None when there is none. Raises :class:`KeyUnusable`."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnusable(f"the ledger's key {path} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_FILE:
        raise KeyUnusable(f"the ledger's key {path} is longer than {_MAX_FILE} bytes")
    try:
        current, *rest = data.decode().splitlines()
        leaving: list[tuple[SignerKey, datetime]] = []
        former: list[VerifierKey] = []
        for line in rest:
            key, until, end = line.partition(_UNTIL)
            if until:
                leaving.append((SignerKey.parse(key), _aware(end)))
            else:
                former.append(VerifierKey.parse(key))
        return Keyring(SignerKey.parse(current), tuple(leaving), tuple(former))
    except (MalformedNote, ValueError) as error:
        raise KeyUnusable(f"the ledger's key {path} is damaged: {error}") from error


def load_or_make(path: Path, name: str | None) -> Keyring:
    """Read the key file, or make it with a key of this name (None: one that nobody else has). Of several processes one makes it.

    Raises :class:`KeyUnusable`, also where the file's key has another name: that would be another log.
    """
    for _ in range(2):
        known = load(path)
        if known is None:
            _write(path, Keyring(SignerKey.generate(name or f"tagstone/{secrets.token_hex(8)}")), replace=False)
            continue
        if name is not None and known.current.name != name:
            raise KeyUnusable(
                f"the ledger is {known.current.name} by its key {path}, and ledger.origin says {name}: a log keeps its name"
            )
        return known
    raise KeyUnusable(f"the ledger's key {path} vanished while it was read")


def store(path: Path, keyring: Keyring) -> None:
    """Put other keys in the place of the file's, wholly or not at all. Raises :class:`KeyUnusable`."""
    _write(path, keyring, replace=True)


@asynccontextmanager
async def changing(path: Path) -> AsyncIterator[None]:
    """Nobody else changes the key, nor tells of a change, while this is held. Raises :class:`KeyUnusable`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = await locked(path.with_name(f"{path.name}.lock"), CHANGE_WAIT, owner_of(path, path.parent))
    except TimeoutError as error:
        raise KeyUnusable(f"the ledger's key {path} has been changed by another process for {CHANGE_WAIT:g} s") from error
    except OSError as error:
        raise KeyUnusable(f"{path}.lock cannot be held to change the ledger's key: {error.strerror or error}") from error
    try:
        yield
    finally:
        os.close(lock)


def _write(path: Path, keyring: Keyring, *, replace: bool) -> None:
    lines = [keyring.current.secret()]
    lines += [f"{key.secret()}{_UNTIL}{until.astimezone(UTC).isoformat()}" for key, until in keyring.leaving]
    lines += map(str, keyring.former)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                if (owner := owner_of(path, path.parent)) is not None:
                    owner.take(file.fileno())  # root turns the key; the server, who is somebody else, has to read it
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
        except FileExistsError:
            pass  # another process was faster: its key is the one
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyUnusable(f"the ledger's key {path} cannot be written: {error.strerror or error}") from error


def _aware(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time
