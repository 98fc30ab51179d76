"""The table of traps in docs/clients/doctor.md.

``python -m proxy.clients.traps.page docs/clients/doctor.md`` writes it anew between its marks; a test compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from proxy.clients.traps.table import TRAPS


def table() -> str:
    """All of it as Markdown, by client."""
    titles = {
        "containerd": "containerd, nerdctl, ctr",
        "docker": "docker",
        "buildkit": "BuildKit",
        "podman": "podman, CRI-O, buildah, skopeo",
        "k3s": "k3s, RKE2",
        "talos": "Talos",
        "any": "All clients",
    }
    parts = []
    for client, title in titles.items():
        rows = [f"### {title}\n", "| trap | effect | what happens | mend |", "| --- | --- | --- | --- |"]
        rows += [
            f"| `{trap.id}`<br>{trap.title} | {trap.effect.value} | {trap.happens} | {trap.mend} |"
            for trap in TRAPS.values()
            if trap.client == client
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def render(text: str) -> str:
    """``text`` with the table made anew between its marks."""
    return re.sub(
        r"(<!-- traps -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}\n{table()}\n{found[2]}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
