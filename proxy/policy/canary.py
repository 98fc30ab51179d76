"""The canary: a repository name that no Tagstone ever serves, so that anybody can ask for it and see what the client does then.

Every repository with a component ``tagstone-canary`` is reserved, in every registry, whatever the rules say
(:func:`proxy.policy.rules.match` answers for it before any rule is looked at), and no upstream is asked for it. The refusal
carries a token that is derived from the tag: whoever made up the tag recognises the answer of a Tagstone in what a client says,
and an upstream's error, which knows the tag at best, does not look like it.

A tag that begins with ``absent-`` is answered 404 instead of 403: some clients tell of the first refusal that they met, but pass
over a 404, so that what they tell instead is what they met afterwards.
"""

from __future__ import annotations

import hashlib
from typing import Final

from storage.reference import Repository

#: A component of every reserved repository.
NAME: Final = "tagstone-canary"
#: The repository that ``tagstone doctor`` asks for, in every registry.
REPOSITORY: Final = f"{NAME}/refused"
ABSENT: Final = "absent-"


def reserved(repository: Repository) -> bool:
    """Whether this repository is never served."""
    return NAME in repository.name.split("/")


def token(tag: str) -> str:
    """What the refusal of this tag carries."""
    return hashlib.sha256(f"tagstone canary: {tag}".encode()).hexdigest()[:24]


def refusal(tag: str) -> str:
    """The reason that is given."""
    return f"tagstone canary {token(tag)}: this repository name is reserved and never served, whatever the rules"
