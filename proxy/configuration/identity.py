"""One hash for everything that decides: the rules, and whom they believe."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import rfc8785

if TYPE_CHECKING:
    from proxy.configuration import Configuration


def policy_hash(configuration: Configuration) -> str:
    """``sha256:`` and the hash, in canonical JSON, of what the file says under ``rules``, ``extends`` and ``trust``.

    With it goes what the names in rules stand for: keys, certificates and roots by their content. Of the root of a TUF repository
    it counts whose it is, and not what was last fetched of it, which every server finds out in its own time. What the file spells
    out although it is the default makes no difference.
    """
    written = configuration.settings.model_dump(mode="json", include={"rules", "extends", "trust"}, exclude_defaults=True)
    questions = [rule.lasting or rule.fingerprint for rule in configuration.rules]
    return f"sha256:{sha256(rfc8785.dumps({**written, 'questions': questions})).hexdigest()}"
