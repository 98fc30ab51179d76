"""``tagstone verify``: what a pull would be answered, and why. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from proxy.configuration import Configuration
    from proxy.policy.rules import Question
    from proxy.policy.verdicts import Verdict
    from proxy.services.explain import Explanation
    from storage.reference import Reference

#: Most bundles in one file.
_MAX_BUNDLES = 1000
_WORD = {"accepted": "PASSES", "refused": "REFUSED", "unknown": "CANNOT TELL"}
_MARK = {"accepted": "ok", "refused": "NO", "unknown": "??"}


def verify(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="registry/repository:tag or registry/repository@digest")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(
            "--evidence",
            metavar="FILE",
            help="Judge a digest by the Sigstore bundles (JSON, or one a line) or the OpenPGP signature in this file and nothing "
            "else, without a network. May be given several times.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the steps of each judgement, with what each saw.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge an image as a pull would be judged now. Exit 0: passes; 1: refused; 2: usage or configuration; 3: could not tell."""
    from proxy.policy.decision import Answer
    from proxy.services.explain import Explainer
    from proxy.services.revision import utc_now

    configuration = common.load(config, data_dir)
    reference = common.parse_reference(image, configuration)
    if evidence:
        raise typer.Exit(_by_files(configuration, reference, evidence, explain=explain, as_json=as_json))
    if reference.repository.registry not in configuration.upstreams:
        common.fail(
            f"the registry {reference.repository.registry} is not configured; add it under upstreams in {configuration.path}",
            common.USAGE,
        )

    async def work() -> Explanation:
        async with common.house(configuration, data_dir, dry=True, anywhere=True) as house:
            explainer = Explainer(house.pins, house.admission, house.upstreams, house.revision, utc_now)
            return await explainer.explain(reference)

    explanation = common.run(work)
    if as_json:
        common.show_json(_json(explanation))
    else:
        for line in _lines(explanation, explain=explain):
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
        **_verdict_json(verdict),
    }


def _verdict_json(verdict: Verdict | None) -> dict[str, object]:
    if verdict is None:
        return {"requirements": [], "evidence": []}
    return {
        "requirements": [
            {"depth": c.depth, "requirement": c.requirement, "outcome": c.outcome.value, "found": c.found} for c in verdict.checks
        ],
        "evidence": [
            {
                "format": e.format,
                "source": e.source,
                "asked": None if e.about is None else str(e.about),
                "key": _key(e.about),
                "signer": e.signer,
                "accepted": e.accepted,
                "reason": e.reason,
                "valid_until": common.moment(e.valid_until),
                "warnings": list(e.warnings),
                "steps": list(e.steps),
            }
            for e in verdict.evidence
        ],
    }


def _key(asked: Question | None) -> str | None:
    """The entry of ``trust.keys`` that a question is about."""
    from proxy.policy.rules import OpenPgp

    match None if asked is None else asked.by:
        case str() as name:
            return name
        case OpenPgp(name):
            return name
        case _:
            return None


def _judged(verdict: Verdict, *, explain: bool) -> list[str]:
    """What was required and what was found, for people."""
    lines: list[str] = []
    if verdict.checks:
        lines.append("  required:")
        lines += [f"    {'  ' * c.depth}[{_MARK[c.outcome.value]}] {c.requirement}: {c.found}" for c in verdict.checks]
    if verdict.evidence:
        lines.append("  found:")
    for piece in verdict.evidence:
        lines.append(f"    [{'ok' if piece.accepted else '--'}] {piece.format}, {piece.source}: {piece.reason}")
        lines += [f"         warning: {warning}" for warning in piece.warnings]
        if explain:
            lines += [f"         {number}. {step}" for number, step in enumerate(piece.steps, 1)]
    return lines


def _by_files(configuration: Configuration, reference: Reference, files: list[Path], *, explain: bool, as_json: bool) -> int:
    """Judge the digest by what is in the files alone; the exit code."""
    from datetime import UTC, datetime

    from proxy.policy.rules import match, questions_of
    from proxy.policy.verdicts import evaluate
    from proxy.verify.model import Subject
    from proxy.verify.pipeline import judge_alone

    if reference.digest is None:
        common.fail("--evidence judges a digest: write registry/repository@sha256:...", common.USAGE)
    limits = configuration.settings.limits
    bundles: list[tuple[str, bytes]] = []
    for file in files:
        try:
            with file.open("rb") as opened:
                body = opened.read(limits.attestation_size + 1)
        except OSError as error:
            common.fail(f"{file} cannot be read: {error.strerror or error}", common.USAGE)
        if len(body) > limits.attestation_size:
            common.fail(f"{file} has more than {limits.attestation_size} bytes (limits.attestation_size)", common.USAGE)
        bundles += _bundles_in(file, body)
    rule = match(configuration.rules, reference.repository)
    questions = questions_of(rule.require)
    subject = Subject(reference.repository, reference.digest, b"")
    now = datetime.now(UTC)
    found = [
        piece
        for source, body in bundles
        for piece in judge_alone(limits, source, body, subject, questions, configuration.trusted, now)
    ]
    verdict = evaluate(rule.require, found)
    if as_json:
        content = {"image": str(reference), "rule": rule.pattern.text, "verdict": verdict.outcome.value}
        common.show_json({**content, "reasons": list(verdict.reasons), **_verdict_json(verdict)})
    else:
        print(f"{reference}: {_WORD[verdict.outcome.value]}")
        print(f"  {rule}, by the evidence given and nothing else")
        for line in [*_judged(verdict, explain=explain), *(f"  {reason}" for reason in verdict.reasons)]:
            print(line)
    return {"accepted": 0, "refused": common.REFUSED}.get(verdict.outcome.value, common.UNKNOWN)


def _bundles_in(file: Path, body: bytes) -> list[tuple[str, bytes]]:
    """The bundles in a file, each with its place: the file itself, or its lines where each is a JSON object."""
    from proxy.verify.pipeline import is_openpgp

    if is_openpgp(body):
        return [(str(file), body)]
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        if len(lines) > _MAX_BUNDLES:
            common.fail(f"{file} holds {len(lines)} bundles; at most {_MAX_BUNDLES} are judged at once", common.USAGE)
        return [(f"{file}, line {number}", line) for number, line in enumerate(lines, 1)]
    return [(str(file), body)]


def _lines(explanation: Explanation, *, explain: bool) -> list[str]:
    decision, verdict, pin = explanation.decision, explanation.verdict, explanation.pin
    word = {"serve": "PASSES", "deny": "REFUSED", "absent": "NOT THERE", "unavailable": "CANNOT TELL"}[decision.answer.value]
    lines = [f"{explanation.reference}: {word}"]
    lines.append(f"  {explanation.rule}")
    if pin is not None:
        lines.append(f"  pinned to {pin.digest} ({pin.state.value}) since {common.moment(pin.pinned_at)}")
    if explanation.judged is not None:
        lines.append(f"  judged    {explanation.judged}")
    if verdict is not None:
        lines += _judged(verdict, explain=explain)
    lines += [f"  {reason}" for reason in decision.reasons]
    if decision.warning is not None:
        lines.append(f"  warning: {decision.warning}")
    return lines
