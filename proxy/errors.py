"""What can go wrong on the way of a pull.

Storage has its own root (:mod:`storage.errors`). Here::

    UpstreamError                 the other side
     ├── UpstreamAbsent           404 to an authorised request: it is not there
     ├── UpstreamDenied           401 / 403 after one re-authorisation: "denied or missing", nobody can tell which
     ├── UpstreamUnavailable      outage: 429, 5xx, timeout, TLS, DNS, open breaker; carries ``retry_after`` in seconds
     └── UpstreamMisbehaved       it broke a promise: wrong digest, redirect to a private address, encoded body
          └── UpstreamOversized   more bytes than were asked for at most
    EvidenceMalformed             evidence that does not hold: why, in words
    LayerRefused                  an image's layer that is broken, ambiguous or beyond the bounds
    Unexaminable                  what runs cannot be looked at: it is gone, or the system refuses
    WorkloadsMalformed            what is no account of what runs, from any program that is known
    ManifestRefused               a document that is no acceptable manifest (schema 1, ambiguous, layer urls, bounds)
    ConfigMalformed               an image's config that cannot be read; only told of: nothing is served or refused by it
    MalformedRequest              a client's request that the specification does not allow; carries an OCI code and a status
    ReviewMalformed               what is no AdmissionReview, or none that can be judged; carries its ``uid`` where that is known
    LoginError                    whoever asks did not show who they are
     ├── LoginRefused             wrong, unknown or expired credentials
     └── LoginUnavailable         it cannot be told now; carries ``retry_after`` in seconds
    ConfigurationError            a file that does not check out; carries every problem with line and key

A refusal by policy is not an exception: see :class:`proxy.policy.decision.Decision`. Only :mod:`proxy.web` turns any of
these into HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass


class UpstreamError(Exception):
    """The upstream did not give what was asked. ``str(error)`` is one line for people, without secrets."""


class UpstreamAbsent(UpstreamError):
    """The upstream says, to a request it accepted, that this does not exist."""


class UpstreamDenied(UpstreamError):
    """The upstream does not let us; it may also not exist (registries hide one behind the other)."""


class UpstreamUnavailable(UpstreamError):
    """No answer that means anything. Never a verdict, never an absence."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UpstreamMisbehaved(UpstreamError):
    """The upstream, or something in between, sent what it must not send."""


class UpstreamOversized(UpstreamMisbehaved):
    """The upstream has more to send than was asked for at most."""


class EvidenceMalformed(Exception):
    """Not what its media type says; counts as a failed check, with this text as the reason."""


class LayerRefused(Exception):
    """What a layer unpacks to cannot be told: why, in words. Never a verdict on what runs."""


class Unexaminable(Exception):
    """A root filesystem or a process cannot be looked at: why, in words. Never a verdict on what runs."""


class WorkloadsMalformed(Exception):
    """What somebody printed about what runs cannot be read: why, in words."""


class ManifestRefused(Exception):
    """The document is not one that Tagstone hands out; ``str(error)`` says which rule it breaks."""


class ConfigMalformed(Exception):
    """An image's config that says nothing that could be told; this text, continuing "its config …", says why."""


class LoginError(Exception):
    """Somebody did not show who they are. ``str(error)`` is one line for them, without secrets."""


class LoginRefused(LoginError):
    """The credentials are not (any more) those of anybody here."""


class LoginUnavailable(LoginError):
    """Whether the credentials are good cannot be told now: never a yes."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MalformedRequest(Exception):
    """The client asked for something that has no meaning (OCI distribution specification, "Error Codes")."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ReviewMalformed(Exception):
    """Kubernetes, or somebody else, sent what is no AdmissionReview of a kind that is known; never a yes.

    ``uid`` is that of the review, where it was one so far that its sender can be answered by a verdict.
    """

    def __init__(self, message: str, uid: str | None = None) -> None:
        super().__init__(message)
        self.uid = uid


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration file: where, what, and the way out."""

    file: str
    line: int  #: from 1; 0 when the file as a whole is meant
    key: str  #: dotted path, e.g. ``rules[2].require.signature.key``
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.key, self.message) if part)


class ConfigurationError(Exception):
    """The configuration does not check out; every problem is listed, not just the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
