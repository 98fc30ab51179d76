"""Text of strangers made fit to be shown: cut, without anything that a terminal would obey, without what looks like a secret."""

from __future__ import annotations

import hashlib
import re

#: Characters of one value that are shown.
MOST = 200
#: What stands in place of a secret.
MASK = "***"

#: Names of variables whose values are not shown. A few that are harmless (``GPG_KEY``) are masked as well.
_SECRET_NAME = re.compile(
    r"passw|passphrase|secret|token|credential|private|api_?key|access_?key|(?:^|[_.-])(?:key|auth|pwd)(?:[_.-]|$)", re.IGNORECASE
)
#: Secrets that give themselves away by their own form, wherever they stand.
_SECRET_FORMS = (
    re.compile(r"(?<=://)[^/\s:@]{1,100}:[^/\s@]{1,100}(?=@)"),
    re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|dckr_pat_|npm_)[A-Za-z0-9_-]{10,200}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,500}(?:\.[A-Za-z0-9_-]{2,2000}){1,2}"),
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.{0,4000}", re.DOTALL),
)
#: ``NAME=value`` and ``--name value`` within a command, where the name is one of the above. What stands before that in the name
#: stays as it is, and is not looked for: texts of strangers would make that slow.
_ASSIGNED = re.compile(
    r"((?:passw(?:or)?d|passphrase|secret|token|credentials?|api_?key|access_?key)[\w.-]{0,40}(?:=|:\s?|\s))"
    r"(\"[^\"]{0,500}\"?|'[^']{0,500}'?|[^\s\"';&|]{1,500})",
    re.IGNORECASE,
)


def plain(text: str, most: int = MOST) -> str:
    """``text`` on one line, of printable characters, at most about ``most`` of them; what is left out is told apart by its hash.

    Controls, line breaks, and the invisible characters that turn the direction of writing come out as escapes.
    """
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:most])
    if len(text) <= most:
        return shown
    rest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{shown}… ({len(text)} characters, sha256 {rest})"


def hide(text: str, most: int = MOST) -> str:
    """``text`` as :func:`plain` shows it, with what looks like a secret masked."""
    # Masked before it is cut, so that no secret is cut to where it is not recognised; within bounds, as patterns cost.
    head = _ASSIGNED.sub(rf"\1{MASK}", text[: 4 * most])
    for form in _SECRET_FORMS:
        head = form.sub(MASK, head)
    if len(text) <= 4 * most:
        return plain(head, most)
    return f"{plain(head[:most], most)}… ({len(text)} characters)"


def variable(name: str, value: str) -> str:
    """The value of an environment variable, masked whole where its name says that it is a secret."""
    return MASK if value and _SECRET_NAME.search(name[:200]) else hide(value)


def size(count: int) -> str:
    """A number of bytes for people: ``4.2 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
