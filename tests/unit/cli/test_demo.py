"""What the demonstration prints, fit for a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from proxy.cli.demo import _show
from proxy.demo.clients import Seen
from proxy.demo.stories import Line


def test_what_is_too_long_goes_on_below_itself() -> None:
    """In a narrow terminal, too, a line's words stand below that line; digests are cut short, and nothing is obeyed."""
    out = io.StringIO()
    console = Console(file=out, width=80, markup=False, highlight=False)
    message = f"pinned to sha256:{'a' * 64}; " + "word " * 20 + "\x1b[2J"
    _show(console, Line("", seen=Seen("node-1", "reg.example/a:v1", 403, None, message)))
    first, *below = out.getvalue().splitlines()
    assert first.split() == ["node-1", "reg.example/a:v1", "403", "nothing", "ok"]
    assert len(below) > 2
    assert all(line.startswith(" " * 11) and len(line) <= 80 for line in below)
    told = " ".join(line.strip() for line in below)
    assert told == f"pinned to sha256:{'a' * 12}; " + "word " * 20 + "\\u{1b}[2J"
