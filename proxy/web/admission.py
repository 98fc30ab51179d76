"""Kubernetes admission webhooks: ``POST /admission/v1/validate`` and ``/admission/v1/mutate`` (AdmissionReview v1).

What is an AdmissionReview is answered 200 with a verdict, whatever comes in between: a webhook that fails is let pass where its
``failurePolicy`` is Ignore. What is none, or comes from nobody who may ask, is an HTTP error with a Status for a body, as API
servers read it. The answer comes within the time that the API server gives (``?timeout=10s``); what could not be decided by then
is refused, and is mostly known at the next try.

No bytes of any image are handed out here. That an image passes, its digest, and why not, is told to whoever may pull it, and to
those whom ``admission.who`` names.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import hdrs, web

from proxy.errors import LoginRefused, LoginUnavailable, MalformedRequest, ReviewMalformed
from proxy.policy.decision import Answer
from proxy.policy.reviews import Meaning, Mutation, ReviewPolicy, meaning, renamed
from proxy.routing import Router
from proxy.services.review import Judged, Reviewer
from proxy.services.workloads import KIND, VERSION, Named, Review, Way, patch, read_review, told
from proxy.settings import Limits
from proxy.web.fairness import Crowded, Fairness
from proxy.web.login import Door, Guest
from proxy.web.pulls import DECIDED, MEMORY, PullLog
from proxy.web.responses import plain
from storage.errors import MalformedName
from storage.reference import Repository

log = structlog.get_logger("tagstone.admission")

#: Without another word after it, it validates.
PATHS: Mapping[str, Way] = {
    "/admission/v1": Way.VALIDATE,
    "/admission/v1/validate": Way.VALIDATE,
    "/admission/v1/mutate": Way.MUTATE,
}
#: An API server takes requests of 3 MiB; an update brings the object twice.
_MAX_BODY = 8 << 20
#: Reading more than this blocks the loop for too long.
_PARSE_INLINE = 64 << 10
#: Bodies of one client that are read at a time (one that sends slowly holds up nobody else), large ones that are parsed at a
#: time, and images of one review that are judged at a time.
_READ_AT_ONCE = 16
_PARSED_AT_ONCE = 2
_IMAGES_AT_ONCE = 8
_TIMEOUT = re.compile(r"(\d{1,3})s", re.ASCII)
#: What an API server waits if it does not say, and what it waits at most.
_DEFAULT_TIMEOUT = 10.0
_MOST_TIMEOUT = 30.0
#: API servers cut single warnings at 256 characters, and leave out what comes after 4096.
_MAX_WARNING = 250
_MOST_WARNINGS = 16
_MAX_LINE = 1200
_MAX_MESSAGE = 16 << 10
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 503: "ServiceUnavailable"}


class _Turned(Exception):
    """A request that is no review, or whose sender may not ask: an HTTP error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one image; ``meant`` is None where its name means nothing here."""

    named: Named
    meant: Meaning | None
    judged: Judged


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request under one policy: it takes both once, at its start."""

    way: Way
    guest: Guest
    policy: ReviewPolicy
    router: Router
    deadline: float  #: by the loop's clock


class AdmissionApi:
    """The handler of the two webhooks. ``policy`` None: they are not served."""

    def __init__(
        self,
        reviewer: Reviewer,
        policy: ReviewPolicy | None,
        router: Router,
        limits: Limits,
        door: Door,
        pulls: PullLog,
        fairness: Fairness,
    ) -> None:
        self._reviewer = reviewer
        self._policy = policy
        self._router = router
        self._door = door
        self._pulls = pulls
        self._fairness = fairness  #: the same as that of pulls
        self._reading = Fairness(limits.model_copy(update={"client_requests": _READ_AT_ONCE, "client_rate": 0}))
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)

    def adopt(self, policy: ReviewPolicy | None, router: Router) -> None:
        """Answer by these from now on."""
        self._policy = policy
        self._router = router

    def serves(self, path: str) -> bool:
        """Whether a POST to this path is a review's."""
        return self._policy is not None and path in PATHS

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one review, whatever comes in between."""
        policy = self._policy
        if policy is None:
            return _status(404, "admission is not configured here")
        deadline = asyncio.get_running_loop().time() + _budget(request)
        try:
            async with asyncio.timeout_at(deadline):
                ask = _Ask(PATHS[request.path], await self._guest(request, policy), policy, self._router, deadline)
                review = await self._read(request, ask.guest)
        except TimeoutError:
            return _status(408, "the AdmissionReview did not arrive in time")
        except _Turned as problem:
            return _status(problem.status, str(problem), problem.headers)
        except ReviewMalformed as problem:
            log.warning("review.malformed", address=request.remote, reason=str(problem))
            return _status(400, str(problem)) if problem.uid is None else _verdict(problem.uid, 400, str(problem))
        try:
            return await self._reviewed(request, review, ask)
        except Exception:
            # An answer of 500 would be a yes where the webhook's failurePolicy is Ignore.
            log.exception("review.failed", workload=told(review.workload))
            return _verdict(review.uid, 500, "Tagstone failed to judge this; its log says why")

    async def _read(self, request: web.BaseRequest, guest: Guest) -> Review:
        """The review in a request. Raises ReviewMalformed."""
        try:
            share = self._reading.enter(guest.name) or await self._reading.wait(guest.name)
        except Crowded as problem:
            raise _Turned(503, str(problem), {"Retry-After": "1"}) from None
        try:
            body = await _body(request)
        finally:
            self._reading.leave(share)
        if len(body) <= _PARSE_INLINE:
            return read_review(body)
        async with self._parsing:
            return await asyncio.to_thread(read_review, body)

    async def _reviewed(self, request: web.BaseRequest, review: Review, ask: _Ask) -> web.Response:
        began = time.perf_counter()
        if len({named.image for named in review.images}) > ask.policy.images:
            message = f"{told(review.workload)} names more than {ask.policy.images} images (admission.images)"
            log.info("review.refused", who=str(ask.guest.principal), address=ask.guest.address, reason=message)
            return _verdict(review.uid, 403, message)
        outcomes = await self._judge_all(review, ask)
        for outcome in outcomes:
            self._write(request, review, ask, outcome, began)
        refused = [outcome for outcome in outcomes if not outcome.judged.accepted]
        if refused:
            outage = all(outcome.judged.answer is Answer.UNAVAILABLE for outcome in refused)
            return _verdict(review.uid, 503 if outage else 403, _message(refused))
        changes = _changes(outcomes, review, ask) if ask.way is Way.MUTATE else []
        return _verdict(review.uid, 200, "", _warnings(outcomes, review, ask), patch(changes) if changes else None)

    # -- who asks, and what ---------------------------------------------------------------------------------------------

    async def _guest(self, request: web.BaseRequest, policy: ReviewPolicy) -> Guest:
        """Whoever asks, if they may ask about anything at all."""
        if request.content_type != "application/json":
            raise _Turned(415, "an AdmissionReview comes as application/json")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise _Turned(415, "an AdmissionReview comes without Content-Encoding")
        try:
            guest = await self._door.identify(request)
        except LoginRefused as error:
            log.info("login.refused", address=request.remote, reason=str(error))
            raise _Turned(401, str(error)) from None
        except LoginUnavailable as error:
            raise _Turned(503, str(error), {"Retry-After": "5"}) from None
        if not _asks(guest, policy) and not self._door.welcomes(guest):
            log.info("review.refused", who=str(guest.principal), address=guest.address)
            raise _Turned(403, f"{guest.principal} may not ask here: name it under admission.who, or let it pull something")
        return guest

    # -- verdicts -------------------------------------------------------------------------------------------------------

    async def _judge_all(self, review: Review, ask: _Ask) -> list[_Outcome]:
        """What becomes of each image. Each different one is judged once, a few at a time, until the time is over."""
        found: dict[str, Meaning | Judged] = {
            text: self._meant(text, review, ask) for text in dict.fromkeys(named.image for named in review.images)
        }
        slots = asyncio.Semaphore(_IMAGES_AT_ONCE)
        tasks = {
            text: asyncio.create_task(self._judge(meant, review, ask, slots))
            for text, meant in found.items()
            if isinstance(meant, Meaning)
        }
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=ask.deadline - asyncio.get_running_loop().time())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        outcomes = []
        for named in review.images:
            meant = found[named.image]
            if isinstance(meant, Judged):
                outcomes.append(_Outcome(named, None, meant))
            elif (task := tasks[named.image]).cancelled():
                reason = f"whether {meant.reference} may run could not be told in time; try again"
                outcomes.append(_Outcome(named, meant, Judged(Answer.UNAVAILABLE, None, (reason,))))
            else:
                outcomes.append(_Outcome(named, meant, task.result()))
        return outcomes

    def _meant(self, text: str, review: Review, ask: _Ask) -> Meaning | Judged:
        """What a name means, or why it is not even looked at."""
        try:
            meant = meaning(text, ask.policy, ask.router)
        except (MalformedName, MalformedRequest) as problem:
            return Judged(Answer.DENY, None, (str(problem),))
        repository = meant.reference.repository
        if not _asks(ask.guest, ask.policy) and not self._door.allows(ask.guest, repository):
            told_who = f"{ask.guest.principal} may not ask about {repository}: neither admission.who nor an access rule allows it"
            return Judged(Answer.DENY, None, (told_who,))
        writes = ask.way is Way.MUTATE and ask.policy.mutation is not Mutation.NONE
        if meant.by_tag and not ask.policy.tags and not writes and not review.made:
            way_out = "name the digest, or let the mutating webhook write it (admission.mutate)"
            return Judged(Answer.DENY, None, ("a tag may name another image tomorrow (admission.tags: refuse)", way_out))
        return meant

    async def _judge(self, meant: Meaning, review: Review, ask: _Ask, slots: asyncio.Semaphore) -> Judged:
        """One image; it takes one of the turns that its asker has for pulls and reviews."""
        async with slots:
            try:
                share = self._fairness.enter(ask.guest.name) or await self._fairness.wait(ask.guest.name)
            except Crowded as problem:
                return Judged(Answer.UNAVAILABLE, None, (str(problem),))
            try:
                return await self._reviewer.judge(meant.reference, dry_run=review.dry_run)
            finally:
                self._fairness.leave(share)

    # -- the log --------------------------------------------------------------------------------------------------------

    def _write(self, request: web.BaseRequest, review: Review, ask: _Ask, outcome: _Outcome, began: float) -> None:
        """One line for each image, like one for each pull."""
        judged, meant = outcome.judged, outcome.meant
        source = MEMORY if judged.remembered else DECIDED
        if not self._pulls.wants(source, refused=not judged.accepted):
            return
        repository: Repository | None = None if meant is None else meant.reference.repository
        line: dict[str, Any] = {
            "who": str(ask.guest.principal),
            "address": ask.guest.address,
            "agent": request.headers.get(hdrs.USER_AGENT, "")[:200],
            "what": "admission",
            "way": ask.way.value,
            "operation": review.operation,
            "dry_run": review.dry_run,
            "workload": told(review.workload),
            "user": told(review.user),
            "where": outcome.named.where,
            "written": told(outcome.named.image),
            "verdict": "admitted" if judged.accepted else "denied" if judged.answer is not Answer.UNAVAILABLE else "unavailable",
            "source": source,
            "ms": round((time.perf_counter() - began) * 1000, 1),
        }
        if meant is not None and repository is not None:
            line["image"], line["rule"] = str(meant.reference), self._pulls.rule_of(repository)
        if judged.digest is not None:
            line["digest"] = str(judged.digest)
        if judged.reasons:
            line["why"] = list(judged.reasons)
        log.info("review", **line)


# -- requests -------------------------------------------------------------------------------------------------------


def _asks(guest: Guest, policy: ReviewPolicy) -> bool:
    """Whether somebody may ask about every image."""
    return policy.askers is not None and policy.askers.holds_for(guest.principal, guest.address)


def _budget(request: web.BaseRequest) -> float:
    """Seconds within which to answer: a little less than the API server waits."""
    found = _TIMEOUT.fullmatch(request.query.get("timeout", ""))
    seconds = min(float(found[1]), _MOST_TIMEOUT) if found else _DEFAULT_TIMEOUT
    return seconds - min(1.0, seconds / 5)


async def _body(request: web.BaseRequest) -> bytes:
    too_long = _Turned(413, f"an AdmissionReview of more than {_MAX_BODY} bytes is not read")
    if request.content_length is not None and request.content_length > _MAX_BODY:
        raise too_long
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > _MAX_BODY:
            raise too_long
    return bytes(body)


# -- answers --------------------------------------------------------------------------------------------------------


def _status(code: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An HTTP error that an API server repeats to the person who asked."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": message}
    if code in _REASONS:
        body["reason"] = _REASONS[code]
    return web.json_response(body, status=code, headers=headers)


def _verdict(uid: str, code: int, message: str, warnings: Sequence[str] = (), changes: bytes | None = None) -> web.Response:
    """An AdmissionReview's answer; allowed with code 200 and with no other."""
    response: dict[str, Any] = {"uid": uid, "allowed": code == 200}
    if code != 200:
        response["status"] = {"status": "Failure", "code": code, "message": message}
        if code in _REASONS:
            response["status"]["reason"] = _REASONS[code]
    if warnings:
        response["warnings"] = list(warnings)
    if changes is not None:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(changes).decode("ascii")}
    return web.json_response({"kind": KIND, "apiVersion": VERSION, "response": response})


def _message(refused: Iterable[_Outcome]) -> str:
    """One line for each container."""
    lines = []
    for outcome in refused:
        name = f" ({told(outcome.named.image)})" if outcome.named.image else ""
        lines.append(plain(f"{outcome.named.where}{name}: {'; '.join(outcome.judged.reasons)}", _MAX_LINE))
    message = "\n".join(lines)
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 4] + "\n..."


def _changes(outcomes: Iterable[_Outcome], review: Review, ask: _Ask) -> list[tuple[Named, str]]:
    """The names that are written in place of others. What a controller made stays as it is; its pods are changed."""
    if review.made:
        return []
    changes = []
    for outcome in outcomes:
        if outcome.meant is not None and outcome.judged.digest is not None:
            name = renamed(outcome.meant, outcome.judged.digest, ask.policy)
            if name != outcome.named.image:
                changes.append((outcome.named, name))
    return changes


def _warnings(outcomes: Iterable[_Outcome], review: Review, ask: _Ask) -> tuple[str, ...]:
    """What a person should know of what passes."""
    found: dict[str, None] = {}
    for outcome in outcomes:
        if outcome.judged.warning is not None:
            found[plain(outcome.judged.warning, _MAX_WARNING)] = None
        if ask.way is Way.VALIDATE and outcome.meant is not None and outcome.meant.by_tag and not review.made:
            tag = f"{outcome.named.where}: {told(outcome.named.image)} is a tag"
            digest = "" if outcome.judged.digest is None else f", which means {outcome.judged.digest.short} here"
            found[plain(f"{tag}{digest}; name the digest to be sure that nodes get that", _MAX_WARNING)] = None
    return tuple(found)[:_MOST_WARNINGS]
