"""The clients that configuration is written for, and Docker's two image stores."""

from __future__ import annotations

from enum import StrEnum


class Client(StrEnum):
    """A container client, by the name that the command line knows."""

    CONTAINERD = "containerd"
    DOCKER = "docker"
    PODMAN = "podman"
    CRIO = "crio"
    BUILDKIT = "buildkit"
    K3S = "k3s"
    TALOS = "talos"
    NERDCTL = "nerdctl"


class Store(StrEnum):
    """Where dockerd keeps images; it decides how it pulls them."""

    GRAPH = "graph"
    CONTAINERD = "containerd"
