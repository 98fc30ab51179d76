"""Where everything that is found wrong, or worth a word, is gathered with its line."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.configuration.source import Location, Node, place
from proxy.errors import Problem


@dataclass(slots=True)
class Report:
    """Errors and warnings about one file. Locations count positions in ``root``, which may have lost what did not check out."""

    file: str
    root: Node
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, location: Location, message: str) -> None:
        """What keeps the file from being used."""
        self.errors.append(self._problem(location, message))

    def warn(self, location: Location, message: str) -> None:
        """What a person would want to know."""
        self.warnings.append(self._problem(location, message))

    def line(self, location: Location) -> int:
        """The line of a value, for messages that point to it."""
        return place(self.root, location)[0]

    def _problem(self, location: Location, message: str) -> Problem:
        line, key, _ = place(self.root, location)
        return Problem(self.file, line, key, message)
