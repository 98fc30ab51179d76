"""Reading SLSA provenance, as the builders of the world write it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.policy.changes import Provenance, read_provenance
from proxy.policy.changes.provenance import V02, V1

GITHUB = "https://github.com/actions/runner/github-hosted"
APP = "https://github.com/acme/app"


@pytest.mark.parametrize(
    ("kind", "predicate", "found"),
    [
        (  # GitHub's artifact attestations
            V1,
            {
                "buildDefinition": {
                    "buildType": "https://actions.github.io/buildtypes/workflow/v1",
                    "externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": APP, "path": "x.yml"}},
                },
                "runDetails": {"builder": {"id": f"{APP}/.github/workflows/x.yml@refs/heads/main"}},
            },
            Provenance(APP, "refs/heads/main", f"{APP}/.github/workflows/x.yml@refs/heads/main"),
        ),
        (  # slsa-github-generator
            V02,
            {"builder": {"id": GITHUB}, "invocation": {"configSource": {"uri": f"git+{APP}@refs/tags/v1", "entryPoint": "x"}}},
            Provenance(APP, "refs/tags/v1", GITHUB),
        ),
        (  # BuildKit
            V02,
            {"builder": {"id": ""}, "invocation": {"configSource": {"uri": f"{APP}.git#refs/heads/main"}}},
            Provenance(APP, "refs/heads/main", ""),
        ),
        (V1, {"buildDefinition": {"externalParameters": {"configSource": {"uri": f"{APP}.git#main"}}}}, Provenance(APP, "main")),
        (V1, {"buildDefinition": {"externalParameters": {"source": f"git+{APP}@main"}}}, Provenance(APP, "main")),
        (V1, {"buildDefinition": {"resolvedDependencies": [{"uri": "pkg:x"}, {"uri": f"git+{APP}"}]}}, Provenance(APP)),
        (
            V02,
            {"materials": [{"uri": "git+ssh://git@host.example/acme/app.git@abc"}]},
            Provenance("ssh://git@host.example/acme/app", "abc"),
        ),
        (V02, {"materials": [1, {"uri": 2}]}, None),
        (V02, {"builder": {"id": "x" * 3000}}, None),
        (V02, {"builder": "x", "invocation": [], "materials": {}}, None),
        (V1, {"buildDefinition": {"externalParameters": {"source": "no-url@x"}}}, Provenance("no-url@x")),
        (V1, [], None),
        ("https://spdx.dev/Document", {"builder": {"id": "x"}}, None),
    ],
)
def test_who_built_what(kind: str, predicate: Any, found: Provenance | None) -> None:
    """Repository without decorations, ref, builder; what does not say any of it says nothing."""
    assert read_provenance(kind, predicate) == found
