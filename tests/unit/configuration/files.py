"""Configuration files for tests: written in a folder that also holds a key, read back as what was found."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from proxy.configuration import Configuration, load
from proxy.errors import ConfigurationError, Problem

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = 'rules: [{match: "**", require: deny}]\n'
UPSTREAM = "upstreams: {docker.io: {}, ghcr.io: {}}\n"


def public_key(seed: int = 1) -> bytes:
    """A public key in PEM form; the same seed gives the same key."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
    return private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Folder:
    """A folder with ``tagstone.yaml``, and the keys ``one.pub`` and ``two.pub`` beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "tagstone.yaml"
        for number, name in enumerate(("one", "two"), 1):
            (path / f"{name}.pub").write_bytes(public_key(number))

    def write(self, text: str) -> Path:
        """Write the file, its common indentation removed."""
        self.file.write_text(textwrap.dedent(text), encoding="utf-8")
        return self.file

    def load(self, text: str, now: datetime = NOW) -> Configuration:
        """Load a file that checks out."""
        return load(self.write(text), now)

    def errors(self, text: str) -> list[str]:
        """What is wrong with a file that does not check out: ``line: key: message``."""
        self.write(text)
        try:
            load(self.file, NOW)
        except ConfigurationError as error:
            return [told(problem) for problem in error.problems]
        raise AssertionError("the file checks out")

    def warnings(self, text: str, now: datetime = NOW) -> list[str]:
        """What there is to say about a file that checks out."""
        return [told(problem) for problem in self.load(text, now).warnings]


def told(problem: Problem) -> str:
    """A problem without the name of its file."""
    return str(Problem("", problem.line, problem.key, problem.message)).removeprefix(":")
