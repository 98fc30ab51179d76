"""The configuration file: not foreign, but whatever stands in it, it is a configuration or every problem with it is told."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from proxy.configuration import load
from proxy.errors import ConfigurationError, Problem
from tests.fuzz.target import Target


def configuration(data: bytes) -> bool:
    """Read, with the models behind it: there are rules, or there is a problem with a line that exists."""
    handle, name = tempfile.mkstemp(suffix=".yaml")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        assert load(Path(name)).rules
    except ConfigurationError as error:
        _told(error.problems, name, len(_LINE.findall(data)) + 2)
        return False
    finally:
        Path(name).unlink()
    return True


def _told(problems: tuple[Problem, ...], name: str, lines: int) -> None:
    assert problems
    for problem in problems:
        assert str(problem).startswith(name)
        assert problem.message
        assert 1 <= problem.line <= lines


#: What YAML takes for the end of a line.
_LINE = re.compile("\r|\n|\x85|\u2028|\u2029".encode())
_SEEDS = (
    b"rules: [{match: '**', require: deny}]\n",
    (
        b"rules:\n- match: a/**\n  require: {all: [{signature: {key: k}}, first-use]}\n"
        b"  tags: [{match: 'v*', on_overwrite: refuse}]\n"
        b"trust: {keys: {k: {file: k.pub, valid_from: 2025-01-01}}}\nupstreams: {a: {url: 'https://a.example'}}\n"
    ),
    (
        b"rules: [{match: x, require: {at_least: 2, of: [{attestation: {type: t, by: {root: r, issuer: i, identity: '*'},"
        b" max_age: 7d, when: 'predicate.a == 1'}}, deny]}}]\ntrust: {roots: {r: public-good}}\n"
    ),
    b"a: &a [1, {b: *a}]\n? - x\n: |\n  text\n--- !<tag:yaml.org,2002:python/object:os.system> x\n",
    b"limits: {manifest_size: 4MiB, evidence_timeout: 15s}\nlisten: '[::1]:5000'\nextends: well-known\nhosts: {h: docker.io}\n",
    "\ufeffrules: \u2028\t- é\x85\n".encode(),
)

TARGETS = (
    Target(
        "configuration",
        configuration,
        (),
        _SEEDS,
        longest=4 << 10,
        largest=64 << 10,
        seconds=1,
        words=("rules:", "require:", "at_least:", "<<:", "public-good", "first-use", "60s", "!!", "&a", "*a"),
        told=False,
    ),
)
