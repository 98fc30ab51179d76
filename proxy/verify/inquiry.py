"""Asking what a judgement needs to know beyond the evidence: whether certificates are revoked.

Verifiers do no I/O. One whose judgement leans on answers of others says which (:class:`proxy.verify.model.Inquiring`); they are
asked here, and laid into the documents. An answer may lead to another question, so this goes in rounds: an OCSP server that is
silent to its lists, a list to what changed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from proxy.policy.rules import Question
from proxy.verify.model import Document, Inquirer, Inquiring, Subject, Trusted, Verifier
from proxy.verify.revocation import Answer, Query, Silence

#: Most rounds: a chain's certificates are asked about side by side, the servers of one of them one after the other.
_ROUNDS = 16
#: Most questions for the documents of one source. What is beyond is not asked, and so not known.
_MOST = 64


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is to be asked for the evidence about one manifest."""

    inquirer: Inquirer | None
    verifiers: Sequence[Verifier]
    subject: Subject
    questions: Sequence[Question]
    trusted: Trusted
    now: datetime

    async def parted(self, documents: Sequence[Document]) -> tuple[Sequence[Document], Sequence[Document]]:
        """Those documents that can be judged as they are, and those whose judgement takes answers."""
        if self.inquirer is None or not self._asking:
            return documents, ()
        needed = await asyncio.to_thread(lambda: [bool(self._needs([document])) for document in documents])
        told = list(zip(documents, needed, strict=True))
        return [each for each, needs in told if not needs], [each for each, needs in told if needs]

    async def answered(self, documents: Sequence[Document], by: float) -> tuple[Document, ...]:
        """The documents, with answers to what their verifiers need to know, as far as they came until ``by`` (the loop's clock).

        Raises only what the inquirer raises, which is nothing for what servers do.
        """
        found = tuple(documents)
        if self.inquirer is None:
            return found
        known: dict[Query, Answer | Silence] = {}
        for _ in range(_ROUNDS):
            needed = await asyncio.to_thread(self._needs, found)
            queries = [query for query in needed if query not in known][: _MOST - len(known)]
            if not queries:
                break
            known |= await self.inquirer.ask({query: needed[query] for query in queries}, self.now, by)
            found = tuple(replace(document, answers=known) for document in documents)
        return found

    @property
    def _asking(self) -> list[Inquiring]:
        return [verifier for verifier in self.verifiers if isinstance(verifier, Inquiring)]

    def _needs(self, documents: Sequence[Document]) -> Mapping[Query, bool]:
        needed: dict[Query, bool] = {}
        for document in documents:
            for verifier in self._asking:
                try:
                    needs = verifier.needs(document, self.subject, self.questions, self.trusted, self.now)
                except Exception:  # noqa: S112 - the judgement stumbles over the same, and tells it as failed evidence
                    continue
                for query, decides in needs.items():
                    needed[query] = decides or needed.get(query, False)
        return needed
