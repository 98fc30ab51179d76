"""``tagstone pins``: what tags mean, what became of them, and an operator's word on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common, pins_check, pins_diff, pins_verify
from proxy.cli.candidates import candidate_json, candidate_lines, in_short, passable, signers_line
from proxy.cli.common import ByOption, ConfigOption, DataDirOption, House, JsonOption, ReasonOption
from proxy.configuration import Configuration
from proxy.policy.rules import Rule, match
from proxy.services.operators import Act, Result, Signed
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Pin, PinChange, PinState

if TYPE_CHECKING:
    from proxy.policy.changes import Change

app = typer.Typer(no_args_is_help=True, help="List, show, compare, approve, reject and remove pins.")
app.command("diff")(pins_diff.diff)

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="registry/repository:tag")]
DigestOption = Annotated[str | None, typer.Option("--digest", help="sha256:… or sha512:…", show_default=False)]

app.command()(pins_check.check)
app.command()(pins_verify.verify)

_EXIT = {Result.DONE: 0, Result.REFUSED: common.REFUSED, Result.UNKNOWN: common.UNKNOWN}
_PAGE = 500


@app.command("list")
def list_pins(
    pattern: Annotated[
        str | None, typer.Argument(help='Only tags that match this glob, e.g. "docker.io/library/*:*".', show_default=False)
    ] = None,
    state: Annotated[PinState | None, typer.Option("--state", help="Only pins in this state.", show_default=False)] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List pins, in the order of their names."""
    configuration = common.load(config, data_dir)

    async def work() -> list[Pin]:
        async with common.records(configuration, data_dir) as records:
            found: list[Pin] = []
            after: str | None = None
            while page := await records.pins.list(pattern=pattern, state=state, limit=_PAGE, after=after):
                found += page
                after = page[-1].name
            return found

    pins = common.run(work)
    rules, now = configuration.rules, datetime.now(UTC)
    if as_json:
        found = [{**pin_json(pin), "waiting": candidate_json(pin, match(rules, pin.repository), now)} for pin in pins]
        common.show_json({"pins": found})
        return
    width = max((len(pin.name) for pin in pins), default=0)
    for pin in pins:
        candidate = in_short(pin, match(rules, pin.repository), now)
        print(f"{pin.name:<{width}}  {pin.state.value:<10}  {pin.digest}{candidate}")
    print(f"{len(pins)} pin{'' if len(pins) == 1 else 's'}")


@app.command()
def show(image: ImageArgument, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show a pin with its history. Exit 1 when the tag is not pinned."""
    configuration = common.load(config, data_dir)
    reference, tag = common.tagged(image, configuration)

    async def work() -> tuple[Pin | None, list[PinChange], Change | None]:
        from proxy.policy.changes import change_or_none
        from storage.classifications import ClassificationStore

        async with common.records(configuration, data_dir) as records:
            pin = await records.pins.get(reference.repository, tag)
            kept = None
            if pin is not None and pin.candidate is not None:
                kept = await ClassificationStore(records.database).get(pin.repository, pin.digest, pin.candidate)
            change = None if kept is None else change_or_none(kept.document)
            return pin, await records.pins.history(reference.repository, tag), change

    pin, history, change = common.run(work)
    rule, now = match(configuration.rules, reference.repository), datetime.now(UTC)
    if as_json:
        from proxy.policy.changes import details_of

        shown: dict[str, object] = {"name": str(reference), "state": "unpinned"}
        if pin is not None:
            shown = {**pin_json(pin), "waiting": candidate_json(pin, rule, now)}
        changed = None if change is None else {"severity": change.severity, **details_of(change)}
        common.show_json({**shown, "changed": changed, "history": [change_json(each) for each in history]})
    else:
        for line in _lines(str(reference), pin, history, change, rule, now):
            print(line)
    if pin is None:
        raise typer.Exit(common.REFUSED)


@app.command()
def approve(
    image: ImageArgument,
    digest: DigestOption = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve another digest, which must pass the image's rule (default: what the upstream names now).

    The pin moves to it when as many people have as the rule asks for, and its cooldown and window allow where it rotates.
    """
    _act("approve", image, digest, Signed(common.acting(by), reason), config, data_dir, as_json=as_json)


@app.command()
def reject(
    image: ImageArgument,
    digest: DigestOption = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say no to what the upstream names now; the pin stays."""
    _act("reject", image, digest, Signed(common.acting(by), reason), config, data_dir, as_json=as_json)


@app.command()
def unpin(
    image: ImageArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a pin; the next accepted pull pins the tag anew."""
    _act("unpin", image, None, Signed(common.acting(by), reason), config, data_dir, as_json=as_json)


def _act(
    verb: str,
    image: str,
    digest_text: str | None,
    signed: Signed,
    config: ConfigOption,
    data_dir: DataDirOption,
    *,
    as_json: bool,
) -> None:
    configuration: Configuration = common.load(config, data_dir)
    reference, tag = common.tagged(image, configuration)
    digest = None if digest_text is None else parse_digest(digest_text)

    async def work() -> Act:
        async with common.house(configuration, data_dir) as house:
            return await _perform(house, verb)

    async def _perform(house: House, verb: str) -> Act:
        operators, repository = house.operators, reference.repository
        match verb:
            case "approve":
                return await operators.approve(repository, tag, digest, signed)
            case "reject":
                return await operators.reject(repository, tag, digest, signed)
            case _:
                return await operators.unpin(repository, tag, signed)

    finish(common.run(work), as_json=as_json)


def parse_digest(text: str) -> Digest:
    """Read a digest, or end with 2."""
    try:
        return Digest.parse(text)
    except MalformedName as error:
        common.fail(str(error), common.USAGE)


def finish(act: Act, *, as_json: bool) -> None:
    """Say how an act ended, and end with its exit code."""
    if as_json:
        pin = None if act.pin is None else pin_json(act.pin)
        common.show_json({"result": act.result.value, "message": act.message, "reasons": list(act.reasons), "pin": pin})
    else:
        print(act.message)
        for reason in act.reasons:
            print(f"  {reason}")
    raise typer.Exit(_EXIT[act.result])


def pin_json(pin: Pin) -> dict[str, object]:
    """A pin as scripts read it."""
    return {
        "name": pin.name,
        "registry": pin.repository.registry,
        "repository": pin.repository.name,
        "tag": pin.tag,
        "digest": str(pin.digest),
        "state": pin.state.value,
        "pinned_at": common.moment(pin.pinned_at),
        "pinned_by": pin.pinned_by,
        "reason": pin.reason,
        "checked_at": common.moment(pin.checked_at),
        "candidate": None if pin.candidate is None else str(pin.candidate),
        "candidate_seen_at": common.moment(pin.candidate_seen_at),
        "rejected": None if pin.rejected is None else str(pin.rejected),
        "signers": None if pin.signers is None else list(pin.signers),
    }


def change_json(change: PinChange) -> dict[str, object]:
    """One line of a pin's history as scripts read it."""
    return {
        "at": common.moment(change.at),
        "action": change.action.value,
        "by": change.by,
        "reason": change.reason,
        "from": None if change.from_digest is None else str(change.from_digest),
        "to": None if change.to_digest is None else str(change.to_digest),
    }


def _lines(name: str, pin: Pin | None, history: list[PinChange], changed: Change | None, rule: Rule, now: datetime) -> list[str]:
    if pin is None:
        lines = [f"{name} is not pinned; its first accepted pull pins it"]
    else:
        lines = [
            f"{pin.name}",
            f"  pinned to   {pin.digest}",
            f"  state       {pin.state.value}",
            f"  since       {common.moment(pin.pinned_at)}, by {pin.pinned_by}",
            f"  checked     {common.moment(pin.checked_at)}",
        ]
        if (signed := signers_line(pin)) is not None:
            lines.append(signed)
        if pin.candidate is not None:
            rejected = " (rejected)" if pin.candidate == pin.rejected else ""
            lines.append(f"  upstream    {pin.candidate}{rejected}, seen {common.moment(pin.candidate_seen_at)}")
            lines.append(f"  changed     {'not told yet' if changed is None else changed.summary}; tagstone pins diff {pin.name}")
            lines += candidate_lines(pin, rule, now)
            if not rejected:
                before = "" if passable(pin, rule, now) else "(when it passes: an approval does not stand for that) "
                lines.append(
                    f"  accept it   {before}tagstone pins approve {pin.name} --digest {pin.candidate} --by NAME --reason WHY"
                )
                lines.append(f"  refuse it   tagstone pins reject {pin.name} --digest {pin.candidate} --by NAME --reason WHY")
    if history:
        lines.append("  history")
    for change in history:
        moved = change.to_digest or change.from_digest
        lines.append(f"    {common.moment(change.at)}  {change.action.value:<11} {moved}  by {change.by}: {change.reason or '-'}")
    return lines
