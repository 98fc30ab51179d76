"""What changed between two images: two snapshots in, a :class:`Change` with kinds, severity and words out. Pure.

Everything an image says of itself (history, dates, labels) is the publisher's word: it helps a person to understand an overwrite,
and nothing is served or refused by it.
"""

from proxy.policy.changes.compare import LEAST, RATIO, child_platform, classify
from proxy.policy.changes.config import CONFIG_TYPES, MAX_CONFIG, Config, canonical, read_config
from proxy.policy.changes.model import (
    MEANINGS,
    Change,
    Child,
    Difference,
    Image,
    Kind,
    LayerLine,
    Pair,
    PlatformChange,
    Side,
    Snapshot,
    not_known_yet,
    pairs,
)
from proxy.policy.changes.provenance import Provenance, read_provenance
from proxy.policy.changes.record import change_of, change_or_none, details_of, document_of, table

__all__ = [
    "CONFIG_TYPES",
    "LEAST",
    "MAX_CONFIG",
    "MEANINGS",
    "RATIO",
    "Change",
    "Child",
    "Config",
    "Difference",
    "Image",
    "Kind",
    "LayerLine",
    "Pair",
    "PlatformChange",
    "Provenance",
    "Side",
    "Snapshot",
    "canonical",
    "change_of",
    "change_or_none",
    "child_platform",
    "classify",
    "details_of",
    "document_of",
    "not_known_yet",
    "pairs",
    "read_config",
    "read_provenance",
    "table",
]
