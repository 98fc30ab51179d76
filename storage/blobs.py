"""The one interface over everything that keeps blobs. Implementations: :mod:`storage.filesystem`.

Rules that every implementation keeps:

* nothing is visible under a digest before all of its bytes hash to that digest (temporary file, fsync, rename, fsync of
  the folder);
* one writer per digest: :meth:`BlobStore.spool` gives the right to write to one caller across all processes that share
  the store, and None to the others, who may :meth:`BlobStore.follow`;
* what is opened was sealed at commit and still matches its seal, or has been hashed again just now.

All methods run their file work off the event loop. Errors: :class:`storage.errors.BlobStoreUnavailable` where the system
refuses, :class:`storage.errors.DigestMismatch` from :meth:`Spool.verify` and :meth:`BlobStore.put`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from storage.digest import Digest

Buffer: TypeAlias = bytes | bytearray | memoryview


class StoredBlob(Protocol):
    """A whole, verified blob, open for reading. It stays readable until closed, also when it is evicted meanwhile."""

    digest: Digest
    size: int

    def fileno(self) -> int:
        """Descriptor of a regular file that holds exactly the blob: for sendfile and pread. Owned by this object."""
        ...

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``offset``, at most ``length`` of them (all that follow when None)."""
        ...

    def close(self) -> None:
        """Give the file back. Idempotent."""
        ...


class Spool(Protocol):
    """The exclusive right to write one blob, and its bytes so far."""

    digest: Digest
    size: int  #: the size that the blob must have in the end
    written: int  #: bytes appended so far; a take-over of an abandoned spool starts above zero

    def fileno(self) -> int:
        """Descriptor of the growing file, readable by pread and sendfile up to ``written``."""
        ...

    async def append(self, take: Callable[[], Sequence[Buffer]], appended: Callable[[int], None]) -> None:
        """Hash and append what ``take`` gives until it gives nothing, all in one turn of a thread.

        Both are called in that thread: ``take`` may wait for a moment, ``appended`` hears how many bytes each time. Raises
        DigestMismatch as soon as the total exceeds ``size``.
        """
        ...

    async def verify(self) -> None:
        """Check size and digest of the whole. Raises :class:`storage.errors.DigestMismatch`."""
        ...

    async def commit(self) -> None:
        """After :meth:`verify`: fsync, rename into place, seal, release the right to write."""
        ...

    async def reset(self) -> None:
        """Forget the bytes so far and start again at zero, still holding the right to write."""
        ...

    async def discard(self) -> None:
        """Remove the bytes and release the right to write. Idempotent, and harmless after commit."""
        ...


class Follower(Protocol):
    """A look at a spool that another process writes."""

    size: int

    def fileno(self) -> int:
        """Descriptor of the growing file."""
        ...

    async def written(self) -> int | None:
        """Bytes that the writer has appended so far; None once the writer has let go (committed, discarded or died)."""
        ...

    def close(self) -> None:
        """Stop looking. Idempotent."""
        ...


class BlobStore(Protocol):
    """Blobs by digest."""

    async def open(self, digest: Digest) -> StoredBlob | None:
        """The blob, verified against its seal or hashed again; None when it is not stored (or was damaged: quarantined)."""
        ...

    async def read(self, digest: Digest, limit: int) -> bytes | None:
        """A small blob whole, its digest computed on these very bytes; None when absent, damaged or above ``limit`` bytes."""
        ...

    async def put(self, digest: Digest, data: bytes) -> None:
        """Store a small blob whole (a manifest, a piece of evidence). Raises DigestMismatch. Idempotent."""
        ...

    async def spool(self, digest: Digest, size: int) -> Spool | None:
        """The right to write ``digest``; None while another holder (in this process or another) has it."""
        ...

    async def follow(self, digest: Digest, size: int) -> Follower | None:
        """Look at the spool that another process writes; None when there is none."""
        ...

    async def recover(self) -> int:
        """Remove spools whose writers are gone; how many. Called at start-up."""
        ...

    async def digests(self, after: Digest | None, limit: int) -> Sequence[Digest]:
        """At most ``limit`` stored digests behind ``after``, in the order of their text; an empty answer is the end."""
        ...

    async def scrub(self, digest: Digest, rate: float) -> int:
        """Hash a blob again, whatever its seal says, at ``rate`` bytes a second; how many bytes were read (0: it is not there).

        What does not hash to its name is quarantined and reported.
        """
        ...

    def quarantine_dir(self) -> Path | None:
        """Where damaged files went, if this store keeps them as files."""
        ...
