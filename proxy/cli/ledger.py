"""``tagstone ledger``: what was decided, proven; and whether anybody wrote it anew."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from proxy.cli import common
from proxy.cli.common import ByOption, ConfigOption, DataDirOption, JsonOption, ReasonOption
from proxy.cli.ledger_watch import watch
from proxy.cli.pulls import image_of, moment_of
from proxy.configuration import Configuration
from storage.digest import Digest
from storage.errors import LedgerDamaged, MalformedName

if TYPE_CHECKING:
    from proxy.services.checkpoints import Signer
    from storage.audit import Audit
    from storage.checkpoints import Checkpoints
    from storage.database import Database
    from storage.entries import Entry
    from storage.keyring import Keyring
    from storage.ledger import Ledger
    from storage.notes import VerifierKey

app = typer.Typer(no_args_is_help=True, help="Show, prove and verify the log of decisions, and watch another proxy's.")
key_app = typer.Typer(invoke_without_command=True, help="Show the keys that checkpoints are signed by, or sign by a new one.")
app.command()(watch)
app.add_typer(key_app, name="key")

_T = TypeVar("_T")

KeyOption = Annotated[
    list[str] | None,
    typer.Option("--key", help="Verifier key (name+id+key), or a file with one a line; may be repeated.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger of one data directory, and what belongs to it."""

    database: Database
    ledger: Ledger
    checkpoints: Checkpoints
    signer: Signer
    keys: Keyring | None


@asynccontextmanager
async def books(configuration: Configuration, data_dir: Path | None, *, write: bool = False) -> AsyncIterator[Books]:
    """Open the ledger: to read it, unless ``write``. Raises StorageError where there is none."""
    from proxy.log import configure
    from proxy.services.checkpoints import KEY_FILE, signer_of
    from proxy.services.revision import utc_now
    from storage import keyring
    from storage.checkpoints import Checkpoints
    from storage.database import FILE_NAME, Database
    from storage.events import EventStore
    from storage.files import owner_of
    from storage.ledger import Ledger

    configure(configuration.settings.log)
    root = common.root_of(configuration, data_dir)
    database = Database(root / FILE_NAME, owner=owner_of(root / FILE_NAME, root))
    ledger, checkpoints = Ledger(database), Checkpoints(database)
    signer = signer_of(configuration.settings.ledger, root, ledger, checkpoints, EventStore(database), utc_now)
    try:
        await database.open(read_only=not write)
        yield Books(database, ledger, checkpoints, signer, await asyncio.to_thread(keyring.load, root / KEY_FILE))
    finally:
        await database.close()


@app.command()
def show(
    since: Annotated[
        str | None, typer.Option("--since", help="Only since then: 2h, 7d, or a date or time.", show_default=False)
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Only this kind; pin stands for all of pin.pinned, pin.rotated, …", show_default=False),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", help="Only about this image, registry/repository[:tag]\\[@digest], or digest.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show entries, in their order."""
    configuration = common.load(config, data_dir)
    start = None if since is None else moment_of(since)
    subject = None if image is None else _subject(image, configuration)
    for each in kind or ():
        _known(each)

    async def work() -> None:
        async with books(configuration, data_dir) as house:
            after, count = -1, 0
            while found := await house.ledger.find(kinds=kind or (), image=subject, since=start, after=after):
                for recorded in found:
                    if as_json:
                        print(recorded.body.decode())
                    else:
                        print_entry(recorded.index, recorded.read())
                after = found[-1].index
                count += len(found)
            if not as_json:
                print(f"{count} entr{'y' if count == 1 else 'ies'}")

    _run_reporting_damage(work)


@app.command()
def prove(
    index: Annotated[int, typer.Argument(min=0, help="Number of the entry, as tagstone ledger show has it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the proof to this file.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print a proof that an entry is in the ledger (C2SP tlog-proof); tagstone ledger verify --proof checks it anywhere.

    Exit code 1 where there is no such entry, 3 where no checkpoint is signed over it yet.
    """
    from storage.merkle import leaf_hash, verify_inclusion
    from storage.notes import Checkpoint, Note
    from storage.proofs import Proof

    configuration = common.load(config, data_dir)

    async def work() -> bytes:
        async with books(configuration, data_dir) as house:
            recorded = await house.ledger.entry(index)
            if recorded is None:
                common.fail(f"there is no entry {index}", common.REFUSED)
            newest = await house.checkpoints.newest()
            if newest is None or newest.size <= index:
                common.fail(
                    f"no checkpoint is signed over entry {index} yet: wait for ledger.interval of a running server, or sign one "
                    "now by tagstone ledger checkpoint --sign",
                    common.UNKNOWN,
                )
            path = await house.ledger.inclusion(index, newest.size)
            note = Note.parse(newest.note)
            if not verify_inclusion(leaf_hash(recorded.body), index, newest.size, path, Checkpoint.parse(note.text).root):
                raise LedgerDamaged(index, "it is not what was signed for, so there is no proof of it")
            return bytes(Proof(index, recorded.body, tuple(path), note))

    proof = _run_reporting_damage(work)
    if output is None:
        print(proof.decode(), end="")
        return
    try:
        output.write_bytes(proof)
    except OSError as error:
        common.fail(f"{output} cannot be written: {error.strerror or error}", common.USAGE)


@app.command()
def verify(
    proof: Annotated[
        Path | None, typer.Option("--proof", help="Check this proof and nothing else; needs no database.", show_default=False)
    ] = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute everything anew from the database: entries, tree, checkpoints, and that pins, history and blocks are as it says.

    The first entry that does not fit is named, with exit code 1.
    """
    keys = tuple(read_keys(key or ()))
    if proof is not None:
        _verify_proof(proof, keys, as_json=as_json)
        return
    configuration = common.load(config, data_dir)

    from storage.audit import Finding, audit

    async def work() -> tuple[Audit, tuple[VerifierKey, ...]]:
        async with books(configuration, data_dir) as house:
            trusted = keys or (() if house.keys is None else house.keys.verifiers)
            progress = _Progress() if sys.stderr.isatty() and not as_json else None
            try:
                return await house.database.snapshot(audit, trusted, progress), trusted
            finally:
                if progress is not None:
                    progress.done()

    result, trusted = common.run(work)
    if keys and result.finding is None and result.size and not result.checkpoints:
        # Whoever names a key wants it to have spoken: that checkpoints were removed must not pass.
        problem = "no checkpoint is kept, by the keys that were given or others: nothing proves that these are the entries"
        result = replace(result, finding=Finding(0, problem, result.size))
    finding = result.finding
    if as_json:
        common.show_json(_audit_json(result, trusted))
    elif finding is None:
        print(f"ledger: {result.size} entries, root {result.root.hex()}")
        print(f"  {_checkpoints_words(result, trusted)}")
        pins = f"{result.pins} pin{'' if result.pins == 1 else 's'}"
        blocks = f"{result.blocks} block{'' if result.blocks == 1 else 's'}"
        print(f"  {pins} and {blocks} are as it says, and so is the history")
    else:
        until = "" if finding.until is None or finding.until <= finding.index + 1 else f" (or one up to {finding.until - 1})"
        print(f"entry {finding.index}{until} does not fit: {common.plain(finding.problem)}")
    if finding is not None:
        raise typer.Exit(common.REFUSED)


@app.command()
def checkpoint(
    sign: Annotated[bool, typer.Option("--sign", help="Sign one now, over everything that there is.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the newest checkpoint. Exit code 1 where there is none."""
    configuration = common.load(config, data_dir)

    async def work() -> str | None:
        async with books(configuration, data_dir, write=sign) as house:
            if sign:
                await house.signer.sign()
            newest = await house.checkpoints.newest()
            return None if newest is None else newest.note.decode()

    note = _run_reporting_damage(work)
    if note is None:
        common.fail("no checkpoint has been signed yet", common.REFUSED)
    print(note, end="")


@app.command()
def policy(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Print the hash of a configuration's rules and trust, as entries of the kind policy have it."""
    from proxy.configuration.identity import policy_hash

    print(policy_hash(common.load(config, data_dir)))


@key_app.callback()
def key(context: typer.Context, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Print the verifier keys, the one that signs now first: what others check checkpoints and proofs against."""
    if context.invoked_subcommand is not None:
        return
    configuration = common.load(config, data_dir)

    async def work() -> Keyring | None:
        async with books(configuration, data_dir) as house:
            return house.keys

    keys = common.run(work)
    if keys is None:
        common.fail("there is no key yet: the first server makes it, or tagstone ledger checkpoint --sign", common.REFUSED)
    for each in keys.verifiers:
        print(each)


@key_app.command()
def rotate(
    by: ByOption = None,
    reason: ReasonOption = "",
    overlap: Annotated[
        str, typer.Option("--overlap", help="For how long the old key signs beside the new one: 12h, 30d, or 0.")
    ] = "30d",
    lost: Annotated[bool, typer.Option("--lost", help="The file of the key is gone: nobody signs beside the new one.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Sign by a new key from here on. An entry hands over, and for a while both sign, so that observers can follow."""
    from proxy.schema import parse_duration

    configuration = common.load(config, data_dir)
    try:
        duration = timedelta(seconds=parse_duration(overlap))
    except (ValueError, OverflowError) as error:
        common.fail(f"--overlap {overlap}: {error}", common.USAGE)

    async def work() -> Keyring:
        async with books(configuration, data_dir, write=True) as house:
            if lost:
                return await house.signer.replace(by=common.acting(by), reason=reason)
            return await house.signer.rotate(by=common.acting(by), reason=reason, overlap=duration)

    keys = _run_reporting_damage(work)
    print(f"checkpoints are signed by {keys.current.verifier}")
    for old, until in keys.leaving:
        print(f"until {common.moment(until)} also by {old.verifier}")


# -- what they share -------------------------------------------------------------------------------------------------------


def read_keys(given: Sequence[str]) -> list[VerifierKey]:
    """Read verifier keys, each given as such or as a file of them; ends with 2 for anything else."""
    from storage.notes import MalformedNote, VerifierKey

    found: list[VerifierKey] = []
    for text in given:
        lines = [text]
        if "+" not in text:
            try:
                lines = [line for line in Path(text).read_text().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                common.fail(f"--key {text} is no verifier key, nor a file with one: {error}", common.USAGE)
        try:
            found += map(VerifierKey.parse, lines)
        except MalformedNote as error:
            common.fail(f"--key {text[:200]}: {error}", common.USAGE)
    return found


def print_entry(index: int, entry: Entry) -> None:
    """An entry on one line, for people."""
    moved = " → ".join(part for part in (entry.from_, entry.to) if part is not None)
    words = f"{index:>7}  {common.moment(entry.at)}  {entry.kind:<16} {entry.subject}"
    reason = f": {entry.reason}" if entry.reason else ""
    print(common.plain(f"{words}  {moved}  by {entry.by}{reason}"))


def _known(kind: str) -> None:
    """End with 2 where there is no such kind of entries: that none is found would be no answer."""
    from storage.entries import EntryKind, pin_kind
    from storage.records import PinAction

    kinds = ("pin", *map(pin_kind, PinAction), *EntryKind)
    if kind not in kinds:
        common.fail(f"--kind {kind}: there are {', '.join(kinds)}", common.USAGE)


def _subject(text: str, configuration: Configuration) -> str:
    if "/" not in text and text.startswith(("sha256:", "sha512:")):
        try:
            return str(Digest.parse(text))
        except MalformedName as error:
            common.fail(str(error), common.USAGE)
    return str(image_of(text, configuration))


def _run_reporting_damage(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a command's coroutine; a ledger that is damaged ends with 1, and not as an outage."""

    async def attempt() -> _T:
        try:
            return await work()
        except LedgerDamaged as error:
            common.fail(str(error), common.REFUSED)

    return common.run(attempt)


def _verify_proof(path: Path, keys: Sequence[VerifierKey], *, as_json: bool) -> None:
    from storage.proofs import MAX_FILE, Proof

    if not keys:
        common.fail("a proof is checked against a key: --key, as tagstone ledger key prints it", common.USAGE)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        common.fail(f"{path} cannot be read: {error.strerror or error}", common.USAGE)
    try:
        read = Proof.parse(data)
        entry, over = read.verify(keys)
    except ValueError as error:
        common.fail(f"{path} proves nothing: {error}", common.REFUSED)
    if as_json:
        proven = {"origin": over.origin, "size": over.size, "index": read.index, "entry": json.loads(read.entry)}
        common.show_json(proven)
        return
    print_entry(read.index, entry)
    print(f"is in the ledger {common.plain(over.origin)}, under its checkpoint of {over.size} entries")


def _checkpoints_words(result: Audit, trusted: Sequence[VerifierKey]) -> str:
    if not result.checkpoints:
        return "no checkpoint has been signed: nothing proves that these are the entries that were written"
    behind = result.size - result.signed
    rest = f"; {behind} behind it are not signed for yet" if behind else ""
    words = f"{result.checkpoints} checkpoints, the newest over {result.signed} entries{rest}"
    return words if trusted else f"{words}; their signatures are by keys that only the ledger itself names (give --key)"


def _audit_json(result: Audit, trusted: Sequence[VerifierKey]) -> dict[str, object]:
    finding = result.finding
    return {
        "fits": finding is None,
        "entries": result.size,
        "root": result.root.hex(),
        "checkpoints": result.checkpoints,
        "signed": result.signed,
        "pins": result.pins,
        "blocks": result.blocks,
        "keys": [str(each) for each in trusted],
        "finding": None if finding is None else {"index": finding.index, "until": finding.until, "problem": finding.problem},
    }


class _Progress:
    """How far it is, on a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        print(f"\r{done:,} of {total:,} entries", end="", file=sys.stderr, flush=True)
        self._shown = True

    def done(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
