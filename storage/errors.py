"""What can go wrong while keeping things.

::

    StorageError
     ├── DatabaseUnavailable    locked beyond the bounded wait, corrupt, read-only, not openable
     │    ├── SchemaMismatch    the database was written by a newer Tagstone, or its migration failed
     │    └── LedgerDamaged     an entry of the ledger is not as it was written; nothing more can be recorded
     ├── BlobStoreUnavailable   the file system refused: full, read-only, too many files, I/O error
     ├── KeyUnusable            the key that the ledger's checkpoints are signed by cannot be read or written
     ├── DigestMismatch         bytes do not hash to the digest they were promised under
     └── PinConflict            a compare-and-swap lost: somebody else moved the pin first

    MalformedName (ValueError)  a registry, repository, tag or digest that the grammar refuses
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of everything that the storage package raises at run time."""


class DatabaseUnavailable(StorageError):
    """The database cannot answer within its bounded wait; nothing may be decided without it."""


class SchemaMismatch(DatabaseUnavailable):
    """The database's schema is not the one this version works with."""


class LedgerDamaged(DatabaseUnavailable):
    """An entry of the ledger is missing, or not as it was written; what must be recorded can therefore not be done."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(f"the ledger is damaged at entry {index}: {problem} (see tagstone ledger verify)")
        self.index = index
        self.problem = problem


class BlobStoreUnavailable(StorageError):
    """The blob store cannot read or write; ``str(error)`` names the path and the system's reason."""


class KeyUnusable(StorageError):
    """The key that the ledger's checkpoints are signed by cannot be read or written, or is another log's."""


class DigestMismatch(StorageError):
    """Bytes hash to something else than the digest that they were asked for under."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}, the bytes hash to {actual}")
        self.expected = expected
        self.actual = actual


class PinConflict(StorageError):
    """The pin is no longer what the caller read; read it again and decide again."""


class MalformedName(ValueError):
    """A name does not follow the grammar of the OCI distribution specification."""
