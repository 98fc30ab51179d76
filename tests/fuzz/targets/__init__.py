"""Every reader of foreign bytes, each listed once: Hypothesis (``test_targets``) and atheris (``test_guided``) drive the same."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    changes,
    clients,
    configuration,
    drift,
    kubernetes,
    ledger,
    login,
    notation,
    openpgp,
    registry,
    revocation,
    sigstore,
    workloads,
)

TARGETS: tuple[Target, ...] = (
    *sigstore.TARGETS,
    *notation.TARGETS,
    *revocation.TARGETS,
    *openpgp.TARGETS,
    *registry.TARGETS,
    *login.TARGETS,
    *configuration.TARGETS,
    *clients.TARGETS,
    *kubernetes.TARGETS,
    *changes.TARGETS,
    *workloads.TARGETS,
    *drift.TARGETS,
    *ledger.TARGETS,
)
