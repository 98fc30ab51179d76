"""Conditions on what an attestation says, in CEL, over ``statement`` and ``predicate``.

An expression that cannot be read is a mistake of who wrote it; one that fails on a statement (a field that is not there, types
that do not fit) or is anything but true is a condition that does not hold. Expressions are the operator's, statements are
strangers': the number of values that an expression meets is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.errors import EvidenceMalformed
from proxy.verify.parsing import shown

#: Longest expression.
_MAX_TEXT = 8 << 10
_COMPLAINT = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*?)(?: expecting .*)?$", re.MULTILINE)
#: Most values in a statement that a condition is held against.
_MAX_VALUES = 500_000


class Condition:
    """One expression, compiled."""

    def __init__(self, text: str) -> None:
        """Compile ``text``. Raises :class:`ValueError` saying what is wrong with it."""
        import cel  # brings a terminal library along, which takes half a second to load

        if len(text) > _MAX_TEXT:
            raise ValueError(f"has {len(text)} characters; the limit is {_MAX_TEXT}")
        self.text = text
        try:
            self._program: Any = cel.compile(text)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"is no condition in CEL: {_mistake(str(error))}") from None

    def check(self, statement: Mapping[str, object], predicate: object) -> None:
        """Raises :class:`EvidenceMalformed` unless the condition holds."""
        if max(_count(statement), _count(predicate)) > _MAX_VALUES:
            raise EvidenceMalformed(f"has a statement of more than {_MAX_VALUES} values, too many for a condition")
        try:
            result = self._program.execute({"statement": statement, "predicate": predicate})
        except KeyError as error:
            raise EvidenceMalformed(f"does not meet {shown(self.text)}: there is no {shown(str(error))}") from None
        except Exception as error:  # whatever the evaluator says, it is not "true"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EvidenceMalformed(f"does not meet {shown(self.text)}: {shown(reason)}") from None
        if result is not True:
            raise EvidenceMalformed(f"does not meet {shown(self.text)}")


def _mistake(message: str) -> str:
    """The place and the first words of the parser's complaint."""
    found = _COMPLAINT.search(message)
    return shown(message) if found is None else f"{shown(found[3])} (line {found[1]}, character {found[2]})"


def _count(value: object) -> int:
    """How many values there are in a JSON value, counting no further than the limit."""
    count, waiting = 0, [value]
    while waiting and count <= _MAX_VALUES:
        node = waiting.pop()
        count += 1
        if isinstance(node, Mapping):
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)
    return count
