"""``tagstone verify``: what a pull would be answered, and why. Writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from proxy.services.explain import Explanation

_MARK = {"accepted": "ok", "refused": "NO", "unknown": "??"}


def verify(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="registry/repository:tag or registry/repository@digest")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge an image as a pull would be judged now. Exit 0: passes; 1: refused; 2: usage or configuration; 3: could not tell."""
    from proxy.policy.decision import Answer
    from proxy.services.explain import Explainer
    from proxy.services.revision import utc_now

    configuration = common.load(config)
    reference = common.parse_reference(image, configuration)
    if reference.repository.registry not in configuration.upstreams:
        common.fail(
            f"the registry {reference.repository.registry} is not configured; add it under upstreams in {configuration.path}",
            common.USAGE,
        )

    async def work() -> Explanation:
        async with common.house(configuration, data_dir, dry=True) as house:
            explainer = Explainer(house.pins, house.admission, house.upstreams, house.revision, utc_now)
            return await explainer.explain(reference)

    explanation = common.run(work)
    if as_json:
        common.show_json(_json(explanation))
    else:
        for line in _lines(explanation):
            print(line)
    codes = {Answer.SERVE: 0, Answer.DENY: common.REFUSED, Answer.ABSENT: common.REFUSED, Answer.UNAVAILABLE: common.UNKNOWN}
    raise typer.Exit(codes[explanation.decision.answer])


def _json(explanation: Explanation) -> dict[str, object]:
    decision, verdict, pin = explanation.decision, explanation.verdict, explanation.pin
    return {
        "image": str(explanation.reference),
        "answer": decision.answer.value,
        "digest": None if decision.digest is None else str(decision.digest),
        "reasons": list(decision.reasons),
        "warning": decision.warning,
        "rule": explanation.rule.pattern.text,
        "upstream": {
            "says": explanation.seen.upstream.value,
            "digest": None if explanation.seen.digest is None else str(explanation.seen.digest),
            "message": explanation.seen.message,
        },
        "pin": None if pin is None else {"digest": str(pin.digest), "state": pin.state.value},
        "judged": None if explanation.judged is None else str(explanation.judged),
        "verdict": None if verdict is None else verdict.outcome.value,
        "requirements": []
        if verdict is None
        else [
            {"depth": c.depth, "requirement": c.requirement, "outcome": c.outcome.value, "found": c.found} for c in verdict.checks
        ],
        "evidence": []
        if verdict is None
        else [
            {
                "format": e.format,
                "source": e.source,
                "asked": None if e.about is None else str(e.about),
                "key": e.about.by if e.about is not None and isinstance(e.about.by, str) else None,
                "accepted": e.accepted,
                "reason": e.reason,
                "valid_until": common.moment(e.valid_until),
            }
            for e in verdict.evidence
        ],
    }


def _lines(explanation: Explanation) -> list[str]:
    decision, verdict, pin = explanation.decision, explanation.verdict, explanation.pin
    word = {"serve": "PASSES", "deny": "REFUSED", "absent": "NOT THERE", "unavailable": "CANNOT TELL"}[decision.answer.value]
    lines = [f"{explanation.reference}: {word}"]
    lines.append(f"  {explanation.rule}")
    if pin is not None:
        lines.append(f"  pinned to {pin.digest} ({pin.state.value}) since {common.moment(pin.pinned_at)}")
    if explanation.judged is not None:
        lines.append(f"  judged    {explanation.judged}")
    if verdict is not None and verdict.checks:
        lines.append("  required:")
        lines += [f"    {'  ' * c.depth}[{_MARK[c.outcome.value]}] {c.requirement}: {c.found}" for c in verdict.checks]
    if verdict is not None and verdict.evidence:
        lines.append("  found:")
        for piece in verdict.evidence:
            mark = "ok" if piece.accepted else "--"
            lines.append(f"    [{mark}] {piece.format}, {piece.source}: {piece.reason}")
    lines += [f"  {reason}" for reason in decision.reasons]
    if decision.warning is not None:
        lines.append(f"  warning: {decision.warning}")
    return lines
