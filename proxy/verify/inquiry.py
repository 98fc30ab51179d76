"""Asking what a judgement needs to know beyond the evidence: whether certificates are revoked.

Verifiers do no I/O. One whose judgement leans on answers of others says which (:class:`proxy.verify.model.Inquiring`); they are
asked here, and laid into the documents. An answer may lead to another question, so this goes in rounds: an OCSP server that is
silent to its lists, a list to what changed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from proxy.policy.rules import Question
from proxy.settings import Limits
from proxy.verify.model import Document, Inquirer, Inquiring, Subject, Trusted, Verifier
from proxy.verify.revocation import Answer, Query, Silence

#: Most rounds: a chain's certificates are asked about side by side, the servers of one of them one after the other.
_ROUNDS = 16
#: Most questions for the documents of one source. What is beyond is not asked, and so not known.
_MOST = 64


async def answered(
    inquirer: Inquirer | None,
    verifiers: Sequence[Verifier],
    documents: Sequence[Document],
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
    limits: Limits,
) -> tuple[Document, ...]:
    """The documents, with answers to what their verifiers need to know, as far as they came in ``limits.revocation_timeout``.

    Raises only what ``inquirer`` raises, which is nothing for what servers do.
    """
    asking = [verifier for verifier in verifiers if isinstance(verifier, Inquiring)]
    if inquirer is None or not asking:
        return tuple(documents)
    known: dict[Query, Answer | Silence] = {}
    by = asyncio.get_running_loop().time() + limits.revocation_timeout
    found = tuple(documents)
    for _ in range(_ROUNDS):
        needed = await asyncio.to_thread(_needs, asking, found, subject, questions, trusted, now)
        queries = [query for query in needed if query not in known][: _MOST - len(known)]
        if not queries:
            break
        known |= await inquirer.ask(queries, now, by)
        found = tuple(replace(document, answers=known) for document in documents)
    return found


def _needs(
    asking: Sequence[Inquiring],
    documents: Sequence[Document],
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
) -> list[Query]:
    needed: dict[Query, None] = {}
    for document in documents:
        for verifier in asking:
            try:
                needed |= dict.fromkeys(verifier.needs(document, subject, questions, trusted, now))
            except Exception:  # noqa: S112 - the judgement stumbles over the same, and tells it as failed evidence
                continue
    return list(needed)
