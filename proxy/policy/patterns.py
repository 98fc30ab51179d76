"""Patterns over whole values: globs, and regular expressions in RE2's syntax.

In a glob ``*`` stops at ``/``, ``**`` crosses it, ``?`` is one character that is not ``/``. The most specific matching pattern
wins: the longest literal text before the first wildcard, then the most literal characters, then the fewest ``**``, the fewest
``*``, the most ``?``: a pattern that matches only part of what another one matches wins. Of equals, the first in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

_WILDCARD = re.compile(r"\*\*|\*|\?")
_REGEX_OF = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob, compiled once."""

    text: str
    regex: re.Pattern[str] = field(repr=False, compare=False)
    #: Literal characters before the first wildcard and in all, then minus the ``**``, minus the ``*``, the ``?``.
    specificity: tuple[int, int, int, int, int] = field(repr=False, compare=False)

    @classmethod
    def compile(cls, text: str) -> Pattern:
        """Compile ``text``. Any text is a pattern; one without wildcards matches itself only."""
        parts: list[str] = []
        wildcards = dict.fromkeys(_REGEX_OF, 0)
        position = literals = 0
        prefix = None
        for found in _WILDCARD.finditer(text):
            prefix = found.start() if prefix is None else prefix
            literals += found.start() - position
            wildcards[found.group()] += 1
            parts += [re.escape(text[position : found.start()]), _REGEX_OF[found.group()]]
            position = found.end()
        parts.append(re.escape(text[position:]))
        literals += len(text) - position
        before = literals if prefix is None else prefix
        specificity = (before, literals, -wildcards["**"], -wildcards["*"], wildcards["?"])
        return cls(text, re.compile("".join(parts), re.DOTALL), specificity)

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches."""
        return self.regex.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression in RE2's syntax (linear time), over whole values; compiled once."""

    text: str
    _compiled: Callable[[str], object] = field(repr=False, compare=False)

    @classmethod
    def compile(cls, text: str) -> Regex:
        """Compile ``text``. Raises :class:`ValueError` saying what is wrong with it."""
        import re2

        options = re2.Options()
        options.log_errors = False
        try:
            return cls(text, re2.compile(text, options).fullmatch)
        except re2.error as error:
            message = error.args[0] if error.args else "it cannot be read"
            raise ValueError(message.decode() if isinstance(message, bytes) else str(message)) from None

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches."""
        return self._compiled(value) is not None


class _Patterned(Protocol):
    @property
    def pattern(self) -> Pattern: ...


_P = TypeVar("_P", bound=_Patterned)


def most_specific(candidates: Sequence[_P], value: str) -> _P | None:
    """The candidate whose pattern matches ``value`` most specifically; the first of equals; None when none matches."""
    matching = [candidate for candidate in candidates if candidate.pattern.matches(value)]
    return max(matching, key=lambda candidate: candidate.pattern.specificity, default=None)
