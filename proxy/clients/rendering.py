"""What is wished for, turned into files: a client's configuration that points at Tagstone and fails closed. Pure.

What each client needs for that was measured on the versions that :attr:`Rendering.covers` names. Where a client cannot fail
closed, the rendering says so in its warnings and holds what does: names with Tagstone's prefix, a source policy, egress rules.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from proxy.clients.endpoint import Release
from proxy.clients.kinds import Client, Store
from proxy.clients.model import File, Owner, Proof, Rendering, Wish
from proxy.clients.templates import Comment, render
from proxy.routing import component
from storage.reference import DOCKER_HUB

#: The words that stand for every registry that is not named.
EVERYTHING_ELSE = "every other registry"
_HOSTS_DIR = PurePosixPath("/etc/containerd/certs.d")
_DOCKER_DIR = PurePosixPath("/etc/docker/certs.d")
_AUTHORITY = "tagstone-ca.pem"


def render_client(wish: Wish) -> Rendering:
    """The configuration that is wished for. Raises ValueError where the client's version cannot have it."""
    rendering = _RECIPES[wish.client](wish)
    return replace(rendering, warnings=(*_general_warnings(wish), *rendering.warnings))


def _general_warnings(wish: Wish) -> Iterator[str]:
    if wish.endpoint.loopback:
        yield (
            f"{wish.endpoint.url} is reached only from the machine that Tagstone runs on; for other machines name its address "
            "with --proxy"
        )
    elif wish.endpoint.plain:
        yield f"{wish.endpoint.url} is plain HTTP: whoever sits between can answer in Tagstone's place; use TLS"


def _expect(client: str) -> str:
    return (
        f"{client} fails with Tagstone's own words (403, denied), Tagstone's log has the refusal, and no image is left; an error "
        "that names another host, or an image, means that the client went around. `tagstone doctor --canary` does it for every "
        "client that it finds"
    )


def _need(wish: Wish, least: Release, why: str) -> None:
    if wish.release is not None and wish.release < least:
        raise ValueError(f"{wish.client} {wish.release} {why}: it takes {least} or later")


# -- containerd, nerdctl and everything that reads hosts.toml -------------------------------------------------------


def directory(registry: str) -> str:
    """The folder of a registry's hosts.toml. A port is written ``host_5000_``, which is looked for before ``host:5000``."""
    if registry.endswith("]"):
        return registry
    host, colon, port = registry.rpartition(":")
    return f"{host}_{port}_" if colon else registry


def _hosts(wish: Wish, folder: PurePosixPath, authority: str | None, covers: str, proof: str) -> Iterator[File]:
    """A hosts.toml for each spelling, for names with Tagstone's prefix, and with ``everything`` for all others."""
    prefix = wish.endpoint.host
    wanted = {directory(name): name for name in wish.names}
    wanted.setdefault(directory(prefix), prefix)
    if wish.everything:
        wanted["_default"] = EVERYTHING_ELSE
    for place, what in wanted.items():
        content = render(
            "hosts.toml",
            client=Comment(wish.client),
            what=Comment(what),
            covers=Comment(covers),
            proof=Comment(proof),
            proxy=wish.endpoint,
            ca=authority,
        )
        yield File(folder / place / "hosts.toml", content)


def _certificates(wish: Wish, path: PurePosixPath) -> Iterator[File]:
    if wish.authority is not None:
        yield File(path, wish.authority)


def _containerd_files(wish: Wish, covers: str, proof: str) -> Iterator[File]:
    yield from _certificates(wish, _HOSTS_DIR / _AUTHORITY)
    yield from _hosts(wish, _HOSTS_DIR, None if wish.authority is None else f"../{_AUTHORITY}", covers, proof)


def _unnamed(wish: Wish) -> Iterator[str]:
    if not wish.everything:
        yield "registries that are not named here are pulled from directly; --all-registries sends them to Tagstone, too"
        host = next((name for name in wish.registries if ":" not in name and name != DOCKER_HUB), "registry-1.docker.io")
        yield f"so are those that are named, by other spellings ({host.upper()}, {host}:443); --all-registries helps here, too"


def _containerd(wish: Wish) -> Rendering:
    _need(wish, Release(1, 5), "reads no hosts.toml")
    covers = "containerd 1.6, 1.7 and 2.x: CRI, and ctr with --hosts-dir"
    by_ctr = f"ctr images pull --hosts-dir {_HOSTS_DIR} {wish.canary}"
    by_cri = f"crictl pull {wish.canary}"
    words = {"client": Comment(wish.client), "proof": Comment(by_cri), "hosts_dir": str(_HOSTS_DIR)}
    old, new = (render(f"containerd-config-{version}.toml", **words) for version in (2, 3))
    form = new if wish.release is not None and wish.release >= Release(2) else old
    config = File(PurePosixPath("/etc/containerd/config.toml"), form, Owner.TOML, {2: old, 3: new, 4: new})
    return Rendering(
        wish.client,
        covers,
        (*_containerd_files(wish, covers, by_ctr), config),
        Proof(by_cri, _expect("the pull")),
        (
            *_unnamed(wish),
            "ctr reads none of this without --hosts-dir, and goes to the registry itself",
        ),
        (
            "restart containerd once config_path is set; hosts.toml files are read at every pull",
            f"remove folders under {_HOSTS_DIR} that hold no hosts.toml: each hides _default for its registry",
        ),
    )


def _nerdctl(wish: Wish) -> Rendering:
    covers = "nerdctl 0.16 and later, with containerd 1.6 and later"
    proof = f"nerdctl pull {wish.canary}"
    return Rendering(
        wish.client,
        covers,
        tuple(_containerd_files(wish, covers, proof)),
        Proof(proof, _expect("the pull")),
        (
            *_unnamed(wish),
            f"nerdctl looks into {_HOSTS_DIR} by default; hosts_dir in /etc/nerdctl/nerdctl.toml and --hosts-dir lead elsewhere",
            "a user without root has ~/.config/containerd/certs.d",
        ),
    )


def _prefixed(image: str) -> str:
    """An image as it stands behind Tagstone's own name."""
    registry, _, rest = image.partition("/")
    return f"{component(registry)}/{rest}"


# -- docker ---------------------------------------------------------------------------------------------------------


def _docker(wish: Wish) -> Rendering:
    release, prefix = wish.release, wish.endpoint.host
    store = wish.store or (Store.CONTAINERD if release is not None and release >= Release(29) else Store.GRAPH)
    if store is Store.CONTAINERD:
        _need(wish, Release(28), "reads no hosts.toml")
    by_name = store is Store.GRAPH
    # Older versions ignore hosts.toml, and files that mean nothing look like protection.
    reads_hosts = not by_name or (release is not None and release >= Release(28))
    proof = f"docker pull {prefix}/{_prefixed(wish.canary)}" if by_name else f"docker pull {wish.canary}"
    covers = (
        "docker 20.10 and later, by names with Tagstone's prefix" if by_name else "docker 28 and later, containerd image store"
    )
    place = _DOCKER_DIR / prefix / "ca.crt"
    files = list(_certificates(wish, place))
    if reads_hosts:
        authority = None if wish.authority is None else f"../{prefix}/ca.crt"
        hosts = "docker 28 and later: docker build, and docker pull with the containerd image store"
        files += _hosts(wish, _DOCKER_DIR, authority, hosts, proof)
    if wish.endpoint.plain or not by_name:
        content = render("daemon.json", proxy=wish.endpoint, containerd_store=not by_name)
        files.append(File(PurePosixPath("/etc/docker/daemon.json"), content, Owner.DAEMON_JSON))
    files += _egress(wish, "docker", "docker.service", proof)
    warnings = list(_unnamed(wish)) if not by_name else []
    if by_name:
        warnings.append(
            "docker's graph store cannot fail closed under an image's own name: a mirror (registry-mirrors) serves Docker Hub "
            "alone, and whatever it refuses dockerd asks Hub for, so none is configured here. What holds: names with Tagstone's "
            f"prefix ({prefix}/{_prefixed(wish.canary).partition('/')[0]}/...); the egress rules below; and where a mirror is "
            "used all the same, on_overwrite: serve-pinned, which leaves an overwritten tag with its pinned image"
        )
        warnings.append(
            "from docker 28 on, --store containerd makes names hold as they are; it does not show the images of the old store"
        )
        if reads_hosts:
            warnings.append("with the graph store, the hosts.toml files rule docker build, but not docker pull")
    steps = ["restart docker after a change of daemon.json; certificates and hosts.toml are read at every pull"]
    if by_name:
        steps += [f"name images by Tagstone: {prefix}/{component(registry)}/..." for registry in wish.registries]
    return Rendering(wish.client, covers, tuple(files), Proof(proof, _expect("the pull")), tuple(warnings), tuple(steps))


def _egress(wish: Wish, daemon: str, service: str, proof: str) -> Iterator[File]:
    """Rules that keep a daemon, and pods that build, from reaching anything but Tagstone. Nobody loads them but a person."""
    address = wish.endpoint.address
    words = {"client": Comment(wish.client), "proof": Comment(proof), "proxy": wish.endpoint}
    rules = render(
        "egress.nft",
        **words,
        daemon=Comment(daemon),
        service=Comment(service),
        table=Comment(f"tagstone_{daemon}"),
        family=Comment("ip6" if isinstance(address, ipaddress.IPv6Address) else "ip"),
    )
    folder = PurePosixPath("/etc/tagstone")
    yield File(folder / f"egress-{daemon}.nft", rules)
    cidr = None if address is None else str(ipaddress.ip_network(address))
    yield File(folder / "egress-pods.yaml", render("egress.yaml", **words, cidr=cidr))


# -- podman and CRI-O -----------------------------------------------------------------------------------------------


def _containers(wish: Wish, covers: str, command: str, steps: Sequence[str]) -> Rendering:
    folder = PurePosixPath("/etc/containers")
    proof = f"{command} {wish.canary}"
    conf = render(
        "registries.conf.toml",
        client=Comment(wish.client),
        covers=Comment(covers),
        proof=Comment(proof),
        registries=wish.names,
        proxy=wish.endpoint,
        prefix=Comment(wish.endpoint.host),
    )
    policy = render("policy.json", registries=wish.names, proxy=wish.endpoint)
    warnings = [
        "policy.json rejects every image from elsewhere, archives and local folders too, unless a scope of its own allows it",
        "~/.config/containers/registries.conf and policy.json of a user replace these files for that user",
    ]
    if wish.everything:
        warnings.append(
            f"{EVERYTHING_ELSE} is refused by policy.json, after its manifest was fetched: it cannot be led to Tagstone"
        )
    return Rendering(
        wish.client,
        covers,
        (
            *_certificates(wish, folder / "certs.d" / wish.endpoint.host / "ca.crt"),
            # Drop-ins are read in the order of their names, and the last one rules.
            File(folder / "registries.conf.d" / "zz-tagstone.conf", conf),
            File(folder / "policy.json", policy, Owner.POLICY_JSON),
        ),
        Proof(proof, _expect("the pull")),
        tuple(warnings),
        tuple(steps),
    )


def _podman(wish: Wish) -> Rendering:
    return _containers(wish, "podman, buildah and skopeo 4.3 to 5.8 (the format of registries.conf version 2)", "podman pull", ())


def _crio(wish: Wish) -> Rendering:
    return _containers(wish, "CRI-O 1.18 and later", "crictl pull", ("systemctl reload crio",))


# -- BuildKit -------------------------------------------------------------------------------------------------------


def _buildkit(wish: Wish) -> Rendering:
    _need(wish, Release(0, 11), "knows no source policy")
    folder = PurePosixPath("/etc/buildkit")
    policy = folder / "tagstone-source-policy.json"
    prefix = wish.endpoint.host
    covers = "BuildKit 0.11 and later: buildkitd, and buildx builders made with --config"
    proof = f"echo FROM {wish.canary} | EXPERIMENTAL_BUILDKIT_SOURCE_POLICY={policy} docker buildx build -"
    files = list(_certificates(wish, folder / _AUTHORITY))
    if wish.endpoint.plain or wish.authority is not None:
        content = render(
            "buildkitd.toml",
            client=Comment(wish.client),
            covers=Comment(covers),
            proof=Comment(proof),
            policy=Comment(str(policy)),
            proxy=wish.endpoint,
            ca=None if wish.authority is None else str(folder / _AUTHORITY),
        )
        files.append(File(folder / "buildkitd.toml", content, Owner.TOML))
    files.append(File(policy, render("buildkit-policy.json", registries=wish.registries, proxy=wish.endpoint)))
    files += _egress(wish, "buildkit", "buildkit.service", proof)
    cannot = (
        "BuildKit cannot fail closed by its own configuration: it asks the registry itself for whatever a mirror refuses, so no "
        f"mirror is configured here. What holds: names with Tagstone's prefix (FROM {prefix}/{DOCKER_HUB}/library/...), the "
        "source policy, which renames images so and denies all others, and the egress rules; an overwritten tag is harmless "
        "where its rule says on_overwrite: serve-pinned"
    )
    give = (
        f"give the policy to every build: buildctl build --source-policy-file {policy}, or for buildx the environment variable "
        f"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY={policy}"
    )
    return Rendering(
        wish.client,
        covers,
        tuple(files),
        Proof(proof, _expect("the build")),
        (cannot, "a source policy is given by who builds, and who builds without it goes around; egress rules bind everybody"),
        (give, "restart buildkitd after a change of buildkitd.toml"),
    )


# -- k3s and Talos --------------------------------------------------------------------------------------------------

#: The first patch of each minor version of k3s that knows the switch.
_K3S_SWITCH = {26: 13, 27: 10, 28: 6, 29: 1}


def _has_switch(release: Release) -> bool:
    first = _K3S_SWITCH.get(release.minor, 0)
    return release >= Release(1, min(_K3S_SWITCH)) and release >= Release(release.major, release.minor, first)


def _k3s(wish: Wish) -> Rendering:
    if wish.release is not None and not _has_switch(wish.release):
        raise ValueError(
            f"k3s {wish.release} cannot fail closed, for it has no --disable-default-registry-endpoint: it takes 1.26.13, "
            "1.27.10, 1.28.6, 1.29.1 or later"
        )
    folder = PurePosixPath("/etc/rancher/k3s")
    covers = "k3s 1.26.13, 1.27.10, 1.28.6, 1.29.1 and later"
    proof = f"k3s crictl pull {wish.canary}"
    switch = folder / "config.yaml.d" / "tagstone.yaml"
    words = {"client": Comment(wish.client), "covers": Comment(covers), "proof": Comment(proof)}
    authority = folder / _AUTHORITY
    registries = render(
        "k3s-registries.yaml",
        **words,
        switch=Comment(str(switch)),
        registries=(*wish.names, *(["*"] if wish.everything else [])),
        proxy=wish.endpoint,
        ca=None if wish.authority is None else str(authority),
    )
    return Rendering(
        wish.client,
        covers,
        (
            *_certificates(wish, authority),
            File(switch, render("k3s-config.yaml", **words)),
            File(folder / "registries.yaml", registries, Owner.OTHERS),
        ),
        Proof(proof, _expect("the pull")),
        tuple(_unnamed(wish)),
        ("restart k3s (k3s-agent on agents), on every node",),
    )


def _talos(wish: Wish) -> Rendering:
    _need(wish, Release(1, 9), "has no skipFallback")
    documents = wish.release is not None and wish.release >= Release(1, 12)
    covers = "Talos 1.12 and later" if documents else "Talos 1.9 and later (from 1.12 on better --client-version 1.12)"
    proof = f"talosctl image pull {wish.canary}"
    authority = wish.authority
    patch = render(
        "talos-documents.yaml" if documents else "talos-machine.yaml",
        client=Comment(wish.client),
        covers=Comment(covers),
        proof=Comment(proof),
        registries=(*wish.names, *(["*"] if wish.everything else [])),
        proxy=wish.endpoint,
        ca=authority,
        ca_base64=None if authority is None else base64.b64encode(authority.encode()).decode(),
    )
    file = File(PurePosixPath("tagstone-talos.yaml"), patch)
    return Rendering(
        wish.client,
        covers,
        (file,),
        Proof(proof, _expect("the pull")),
        tuple(_unnamed(wish)),
        (f"talosctl patch machineconfig --patch @{file.path}, for every node",),
    )


_RECIPES: Mapping[Client, Callable[[Wish], Rendering]] = {
    Client.CONTAINERD: _containerd,
    Client.NERDCTL: _nerdctl,
    Client.DOCKER: _docker,
    Client.PODMAN: _podman,
    Client.CRIO: _crio,
    Client.BUILDKIT: _buildkit,
    Client.K3S: _k3s,
    Client.TALOS: _talos,
}
