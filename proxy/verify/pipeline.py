"""The pipeline: discovery, judgement, verdict.

::

    discover ─▶ Harvest ─▶ Verifier.judge (worker thread) ─▶ Evidence ─▶ evaluate(rule) ─▶ Verdict

Each signature format is one :class:`proxy.verify.model.Verifier`, listed in :func:`default_verifiers` and named nowhere else.
The pipeline stops as soon as the verdict is settled: a signature tag that satisfies the rule does not wait for referrers that
are slow or down, and the other way round. It fails closed: what a verifier did not foresee is failed evidence, and what was not
found in time is unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import assert_never

import structlog

from proxy.manifest import Entry, Manifest
from proxy.policy.rules import (
    AttestationBy,
    Evidence,
    Identity,
    Outcome,
    Question,
    Rule,
    SignatureBy,
    Store,
    Verdict,
    evaluate,
    questions_of,
)
from proxy.settings import Limits
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.cosign import CosignAttestations, CosignSignatures, answers
from proxy.verify.discovery import discover, merge
from proxy.verify.model import Document, Fetcher, Found, Harvest, Subject, Trusted, Verifier
from proxy.verify.notation import NotationSignatures
from proxy.verify.second import SecondVerdict

_log = structlog.get_logger(__name__)
_NOT_YET = ("the search for signatures has not ended",)


def default_verifiers(limits: Limits) -> tuple[Verifier, ...]:
    """One verifier for each signature format that is read."""
    second = SecondVerdict()
    return (
        CosignSignatures(limits, second),
        CosignAttestations(limits, second),
        SigstoreBundles(limits, second),
        NotationSignatures(limits),
    )


def places_of(questions: Sequence[Question]) -> tuple[Found, ...]:
    """Where answers to these questions may be; the referrers always."""
    places = [Found.SIGNATURE_TAG] if any(answers(question, SignatureBy) for question in questions) else []
    if any(isinstance(question, AttestationBy) for question in questions):
        places.append(Found.ATTESTATION_TAG)
    return (*places, Found.REFERRERS_API)


class Pipeline:
    """Judges manifests by the evidence about them."""

    def __init__(self, verifiers: Sequence[Verifier], trusted: Trusted, limits: Limits) -> None:
        self._verifiers = tuple(verifiers)
        self._trusted = trusted
        self._limits = limits

    async def judge(self, fetcher: Fetcher, subject: Subject, rule: Rule, now: datetime) -> tuple[Verdict, Harvest]:
        """Find the evidence that the rule asks for and hold it against the rule.

        Nothing is fetched where evidence would change nothing (``first-use``, ``deny``). The harvest holds what was fetched
        until the verdict was settled. Raises only what ``fetcher`` raises beyond :class:`proxy.errors.UpstreamError`.
        """
        verdict = evaluate(rule.require, (), _NOT_YET)
        if verdict.outcome is not Outcome.UNKNOWN:
            return verdict, merge(())
        questions = questions_of(rule.require)
        unknown = tuple(piece for question in questions if (piece := _not_configured(question, self._trusted)) is not None)
        harvests: dict[int, Harvest] = {}
        judged: dict[int, tuple[Evidence, ...]] = {}

        def wants(manifest: Manifest, layer: Entry) -> int | None:
            sizes = (verifier.wants(manifest, layer, questions) for verifier in self._verifiers)
            return max((size for size in sizes if size is not None), default=None)

        places = places_of(questions)
        async with aclosing(discover(fetcher, subject, self._limits, wants, places)) as sources:
            async for rank, harvest in sources:
                found = await asyncio.to_thread(
                    judge_documents, self._verifiers, harvest.documents, subject, questions, self._trusted, now
                )
                harvests[rank], judged[rank] = harvest, (*found, *harvest.malformed)
                evidence = (*unknown, *(piece for rank in sorted(judged) for piece in judged[rank]))
                verdict = evaluate(rule.require, evidence, _NOT_YET)
                if verdict.outcome is not Outcome.UNKNOWN:
                    return verdict, _in_order(harvests)
        whole = _in_order(harvests)
        evidence = (*unknown, *(piece for rank in sorted(judged) for piece in judged[rank]))
        return evaluate(rule.require, evidence, whole.unavailable, whole.retry_after), whole


def judge_documents(
    verifiers: Sequence[Verifier],
    documents: Sequence[Document],
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
) -> tuple[Evidence, ...]:
    """Judge documents without a network. Never raises for what they contain.

    A document that no verifier reads, and a verifier that breaks on one, are failed evidence.
    """
    evidence: list[Evidence] = []
    for document in documents:
        source = document.source(subject.digest)
        fitting = [verifier for verifier in verifiers if verifier.judges(document)]
        if not fitting:
            evidence.append(Evidence("evidence", source, None, None, accepted=False, reason="is of no format that is known here"))
        for verifier in fitting:
            try:
                evidence += verifier.judge(document, subject, questions, trusted, now)
            except Exception as error:  # whatever it is, it must not become an acceptance, nor end the other judgements
                _log.exception("verifier failed", verifier=verifier.name, subject=str(subject.digest), source=source)
                reason = f"could not be judged: {type(error).__name__} in the verifier of this format (a bug: see the log)"
                evidence.append(Evidence(verifier.name, source, None, None, accepted=False, reason=reason))
    return tuple(evidence)


def judge_bundle(
    limits: Limits,
    source: str,
    body: bytes,
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
) -> tuple[Evidence, ...]:
    """Judge one Sigstore bundle that came without a manifest. Never raises for what it contains."""
    unknown = tuple(piece for question in questions if (piece := _not_configured(question, trusted)) is not None)
    bundles = SigstoreBundles(limits, SecondVerdict())
    return (*unknown, *bundles.judge_bytes(source, body, subject, questions, trusted, now))


def _in_order(harvests: Mapping[int, Harvest]) -> Harvest:
    return merge([harvests[rank] for rank in sorted(harvests)])


def _not_configured(question: Question, trusted: Trusted) -> Evidence | None:
    """Failed evidence for a signer that nothing stands for; None when something does."""
    match question.by:
        case str() as name:
            what, known = "key", name in trusted.keys
        case Identity(root=name):
            what, known = "root", name in trusted.roots
        case Store(name):
            what, known = "notation store", name in trusted.stores
        case _:
            assert_never(question.by)
    if known:
        return None
    return Evidence(what, "the configuration", question, None, accepted=False, reason=f"knows no {what} {name}")
