"""Images as builders make them: a base, steps with their history, a config; and what publishers and attackers make of them.

::

    app = Build(debian("2026-05-01"), (Step("RUN apt-get install -y nginx # buildkit", "nginx"),), {"Cmd": ["nginx"]})
    image = app.image()                                   # bytes that clients can pull and run
    rebuilt = replace(app, base=debian("2026-06-01")).image()

Equal builds give equal bytes. A step's ``seed`` decides what is in its layer: images share the layers whose seeds are equal.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.digest import Digest
from tests.simulator import images
from tests.simulator.images import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Family,
    Image,
)

CREATED = "2026-05-01T10:00:00Z"


@dataclass(frozen=True)
class Step:
    """One line of history, with the layer that it made (none: only the config changed)."""

    command: str
    seed: str | None = None
    size: int = 1000
    created: str = CREATED


@dataclass(frozen=True)
class Build:
    """What an image is built from. ``run`` is the config's ``config``; ``document`` replaces members of the config itself."""

    base: tuple[Step, ...]
    steps: tuple[Step, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    created: str | None = CREATED
    platform: str = "linux/amd64"
    media: Family = "oci"
    history: bool = True
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    packing: int = 1  #: how hard layers are packed: another number gives other layers that unpack to the same

    def image(self) -> Image:
        """The image."""
        oci = self.media == "oci"
        made = [step for step in (*self.base, *self.steps) if step.seed is not None]
        plain = [gzip.decompress(images.layer(f"{step.seed}/{self.platform}", step.size).data) for step in made]
        layers = [Blob(OCI_LAYER if oci else DOCKER_LAYER, gzip.compress(tar, self.packing, mtime=0)) for tar in plain]
        document = {
            **images.platform_of(self.platform),
            **({} if self.created is None else {"created": self.created}),
            "config": dict(self.run),
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in plain]},
        }
        if self.history:
            document["history"] = [_line(step) for step in (*self.base, *self.steps)]
        config = Blob(OCI_CONFIG if oci else DOCKER_CONFIG, images.encode(document | dict(self.document)))
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
            "config": config.entry(),
            "layers": [layer.entry() for layer in layers],
        }
        if self.annotations:
            manifest["annotations"] = dict(self.annotations)
        return Image(manifest["mediaType"], images.encode(manifest), (config, *layers))


def _line(step: Step) -> dict[str, Any]:
    empty = {"empty_layer": True} if step.seed is None else {}
    return {"created": step.created, "created_by": step.command, **empty}


def debian(day: str) -> tuple[Step, ...]:
    """A base as the debian images are: one layer, whose step names the second of its making."""
    seconds = f"17{int(day.replace('-', '')):08}"
    return (
        Step(f"# debian.sh --arch 'amd64' out/ 'trixie' '@{seconds}'", f"debian-{day}", 4000, f"{day}T00:00:00Z"),
        Step('CMD ["bash"]', None, created=f"{day}T00:00:01Z"),
    )


def nginx(day: str = "2026-05-01") -> Build:
    """A web server on Debian, as Docker's library builds it, on a day."""
    at = f"{day}T10:00:00Z"
    return Build(
        debian(day),
        (
            Step("LABEL maintainer=NGINX Docker Maintainers <docker-maint@nginx.com>", None, created=at),
            Step("ENV NGINX_VERSION=1.29.1", None, created=at),
            Step("RUN /bin/sh -c set -x && apt-get install -y nginx=1.29.1 # buildkit", f"nginx-{day}", 6000, at),
            Step("COPY docker-entrypoint.sh / # buildkit", f"entry-{day}", 500, at),
            Step('ENTRYPOINT ["/docker-entrypoint.sh"]', None, created=at),
            Step("EXPOSE map[80/tcp:{}]", None, created=at),
            Step('CMD ["nginx" "-g" "daemon off;"]', None, created=at),
        ),
        {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NGINX_VERSION=1.29.1"],
            "Entrypoint": ["/docker-entrypoint.sh"],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": {"80/tcp": {}},
            "User": "nginx",
            "WorkingDir": "/",
            "StopSignal": "SIGQUIT",
            "Labels": {"maintainer": "NGINX Docker Maintainers <docker-maint@nginx.com>"},
        },
        at,
    )
