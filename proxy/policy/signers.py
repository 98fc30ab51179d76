"""Who vouched for an image, in one canonical line each, and whether two images have the same to thank.

===========================  ==================================================================================================
line                         who
===========================  ==================================================================================================
``key NAME SHA256``          a managed key: its name in ``trust.keys`` and its fingerprint
``openpgp NAME FINGERPRINT`` an OpenPGP key: the name of its entry and the fingerprint of its primary key
``notation STORE WHO``       a signer of a Notary Project trust store, told apart by the subject of the certificate
``keyless ISSUER IDENTITY``  a signer by certificate: issuer of the identity token, and e-mail address or URI
===========================  ==================================================================================================

Lines are kept with verdicts and pins. What they are compared by leaves out the names that the operator gave, so that renaming a
key changes nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import assert_never

from proxy.policy.rules import Identity, OpenPgp, Question, Store

#: The git tag that a workflow's identity ends with: every release has one of its own. A branch is part of who signed.
_RELEASE = re.compile(r"@refs/tags/[^@]*\Z")
_LONGEST = 300


def signer_line(question: Question, authority: str) -> str:
    """The line for the authority that stands behind the answer to a question."""
    match question.by:
        case str() as name:
            return f"key {name} {authority}"
        case OpenPgp(name):
            return f"openpgp {name} {authority}"
        case Store(name):
            return f"notation {name} {authority}"
        case Identity():
            return f"keyless {authority}"
        case _:
            assert_never(question.by)


def continues(before: Collection[str], now: Collection[str]) -> bool:
    """Whether nobody vouches for the new image who did not vouch for the old one, and somebody does if somebody did."""
    known = {_who(line) for line in before}
    return {_who(line) for line in now} <= known and (bool(now) or not before)


def belongs(line: str, to: Collection[str]) -> bool:
    """Whether this signer is one of these."""
    return _who(line) in {_who(each) for each in to}


def told(lines: Collection[str]) -> str:
    """Signers as people read them: ``key acme (sha256:0123456789ab…)``, ``https://… of https://…``; ``nobody``."""
    return " and ".join(_told(line) for line in lines) or "nobody"


def _who(line: str) -> tuple[str, str]:
    kind, _, rest = line.partition(" ")
    if kind == "keyless":
        return kind, _RELEASE.sub("@refs/tags/", rest)
    return kind, rest.partition(" ")[2]


def _told(line: str) -> str:
    # A certificate may hold anything; what is told of it is one short line.
    line = "".join(each if each.isprintable() else "?" for each in line[:_LONGEST]) + ("…" if len(line) > _LONGEST else "")
    kind, _, rest = line.partition(" ")
    name, _, who = rest.partition(" ")
    match kind:
        case "keyless":
            return f"{who} of {name}"
        case "key" | "openpgp":
            return f"{'' if kind == 'key' else 'OpenPGP '}key {name} ({who[:12]}…)"
        case _:
            return f"signer {who.removeprefix('x509.subject:')[:12]}… of notation store {name}"
