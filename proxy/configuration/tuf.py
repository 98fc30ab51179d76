"""Roots that come from TUF repositories: as they are written, and what becomes of them by what is known of the repositories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.tuf.repository import TufRepository
from proxy.tuf.state import State, Trouble, folder_of, read
from storage.errors import StorageError

if TYPE_CHECKING:
    from proxy.verify.roots import Demands, Root

#: What the trusted root is called in Sigstore's repositories.
TARGET = "trusted_root.json"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a root comes from, and what is demanded of evidence under it."""

    repository: TufRepository
    demands: Demands


@cache
def public_good_source() -> Source:
    """The public-good Sigstore instance: its repository, and the root that comes with this version."""
    from proxy.verify.roots import PUBLIC_GOOD, Demands, public_good

    return Source(TufRepository.of(PUBLIC_GOOD, public_good("root.json"), TARGET, public_good()), Demands())


def known(sources: Iterable[Source], data_dir: Path) -> dict[str, State]:
    """What is known of the repositories, by their folders. Reads files; never raises.

    Where one cannot be read now, nothing is decided by its root: what it says could be that nothing may be.
    """
    return {source.repository.folder: _known(folder_of(data_dir, source.repository)) for source in sources}


def _known(folder: Path) -> State:
    try:
        return read(folder)
    except StorageError as error:
        return State(refused=Trouble(None, str(error)))


def root_of(name: str, source: Source, state: State, *, required: bool) -> Root:
    """The root as it is to be used. Where there is none to be had it vouches for nobody, and its questions stay open.

    ``required``: new decisions need metadata that has not expired (``trust.freshness``).
    """
    from proxy.verify.roots import Root

    repository = source.repository
    body = state.believed(repository)
    if body is None:
        why = state.refused or state.unreachable or "nobody has asked it"
        return _nothing(name, source, f"there is none yet from its TUF repository {repository.url}: {why}")
    try:
        root = Root.load(name, body, source.demands)
    except ValueError as error:  # the repository's word, so no mistake in the configuration
        return _nothing(name, source, f"what its TUF repository {repository.url} has cannot be used: {error}", body)
    if state.refused is not None:
        return replace(root, suspended=str(state.refused))
    if required and (state.accepted is None or body is not state.accepted.body):
        told = f"it has not been refreshed from {repository.url} yet, and `trust.freshness` is `required`"
        return replace(root, suspended=told)
    return replace(root, fresh_until=state.accepted.expires) if required and state.accepted is not None else root


def _nothing(name: str, source: Source, why: str, body: bytes = b"") -> Root:
    from proxy.verify.roots import Root

    content = "\0".join((source.repository.folder, repr(source.demands), hashlib.sha256(body).hexdigest()))
    return Root(name, (), {}, {}, (), source.demands, hashlib.sha256(content.encode()).hexdigest(), suspended=why)
