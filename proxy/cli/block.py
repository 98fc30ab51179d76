"""``tagstone block`` and ``tagstone unblock``: refuse a digest everywhere, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ByOption, ConfigOption, DataDirOption, JsonOption, ReasonOption
from proxy.cli.pins import finish, parse_digest
from proxy.configuration import Configuration
from proxy.services.operators import Act, Signed
from storage.records import Block

DigestArgument = Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:… or sha512:… of a manifest or a blob")]


def block(
    digest: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="Digest of a manifest or a blob; none: list.", show_default=False)
    ] = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a digest in every repository, cached or not, with all that only it reaches. Without DIGEST: list the blocks."""
    if digest is None:
        configuration = common.load(config, data_dir)
        _show(common.run(lambda: _blocks(configuration, data_dir)), as_json=as_json)
    else:
        _act(digest, Signed(common.acting(by), reason), config, data_dir, blocked=True, as_json=as_json)


def unblock(
    digest: DigestArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a block back."""
    _act(digest, Signed(common.acting(by), reason), config, data_dir, blocked=False, as_json=as_json)


def _act(digest: str, signed: Signed, config: Path | None, data_dir: Path | None, *, blocked: bool, as_json: bool) -> None:
    configuration = common.load(config, data_dir)
    parsed = parse_digest(digest)

    async def work() -> Act:
        async with common.house(configuration, data_dir) as house:
            act = house.operators.block if blocked else house.operators.unblock
            return await act(parsed, signed)

    finish(common.run(work), as_json=as_json)


async def _blocks(configuration: Configuration, data_dir: Path | None) -> list[Block]:
    async with common.records(configuration, data_dir) as records:
        return await records.catalog.blocks()


def _show(blocks: list[Block], *, as_json: bool) -> None:
    if as_json:
        shown = [{"digest": str(b.digest), "reason": b.reason, "by": b.by, "at": common.moment(b.at)} for b in blocks]
        common.show_json({"blocks": shown})
        return
    for each in blocks:
        print(f"{each.digest}  {common.moment(each.at)}  by {common.plain(each.by)}: {common.plain(each.reason) or '-'}")
    print(f"{len(blocks)} block{'' if len(blocks) == 1 else 's'}")
