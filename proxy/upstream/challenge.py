"""``WWW-Authenticate``, parsed whole (RFC 9110, section 11.6.1): several challenges in one field or many, quoted strings with
commas and spaces, token68, parameters in any order. What cannot be read is left out; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_SEPARATOR = re.compile(r"[\s,]*")
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_EQUALS = re.compile(r"\s*=\s*(?=[^\s,=])")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r'[^\s,"]+')  # more than a token: some registries leave the quotes of URLs away
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

#: Challenges that are looked at in one answer.
MAX_CHALLENGES = 16
#: Actions that are ever asked for: reading, and what Azure calls reading the list of tags.
_READING = frozenset({"pull", "metadata_read"})


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: the scheme in lower case, its parameters by lower-case name (the first of a name counts)."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """The realm; for Bearer the URL of the token endpoint, maybe relative. Empty when missing."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """The service to ask a token for; empty when missing."""
        return self.parameters.get("service", "")

    @property
    def scope(self) -> str:
        """The one scope to ask for, narrowed to reading; empty when the challenge names none."""
        return narrowed(self.parameters.get("scope", ""))

    @property
    def error(self) -> str:
        """``insufficient_scope``, ``invalid_token``, …; empty when missing."""
        return self.parameters.get("error", "")


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Read the values of all ``WWW-Authenticate`` fields of an answer, in order."""
    found: list[Challenge] = []
    for value in values:
        found.extend(_parse(value, MAX_CHALLENGES - len(found)))
    return tuple(found)


def _parse(value: str, most: int) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while True:
        at = _end(_SEPARATOR, value, at)
        word = _WORD.match(value, at)
        if word is None:
            return found
        at = word.end()
        equals = _EQUALS.match(value, at)
        if equals is None:
            if len(found) >= most:
                return found
            found.append(Challenge(word[0].lower()))
            at = _end(_TOKEN68, value, at)
            continue
        text = _QUOTED.match(value, equals.end()) or _BARE.match(value, equals.end())
        if text is None or not found:
            return found
        at = text.end()
        content = _ESCAPED.sub(r"\1", text[1]) if text.re is _QUOTED else text[0]
        found[-1].parameters.setdefault(word[0].lower(), content)


def _end(pattern: re.Pattern[str], value: str, at: int) -> int:
    found = pattern.match(value, at)
    return found.end() if found else at


def narrowed(scope: str) -> str:
    """The one scope that is asked for out of what a challenge names: the first repository's, with nothing but reading.

    ``repository:<name>:<actions>`` (distribution's token specification) loses every action but reading; other shapes, such as
    public ECR's ``aws``, stay as they are.
    """
    scopes = scope.split()
    chosen = next((each for each in scopes if each.startswith("repository")), scopes[0] if scopes else "")
    resource, colon, actions = chosen.rpartition(":")
    if not colon or ":" not in resource:
        return chosen
    allowed = [action for action in actions.split(",") if action in _READING] or ["pull"]
    return f"{resource}:{','.join(allowed)}"
