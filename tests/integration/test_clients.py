"""Real clients against the installed server and a real upstream: what is signed passes, all else is refused in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.clients import Client, DockerMirror, Skopeo
from tests.integration.conftest import Upstream
from tests.integration.pictures import BUSYBOX, Recording, busybox, elsewhere, here, picture, seed_of
from tests.integration.processes import DockerRegistry, Tagstone
from tests.integration.relay import DeadEnd
from tests.simulator.images import Image

pytestmark = pytest.mark.client


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> str:
    """A tag that no other test uses."""
    return f"{request.node.callspec.id}-{request.node.originalname.removeprefix('test_').replace('_', '-')[:60]}"


@pytest.fixture
def name(client: Client, tag: str) -> Iterator[str]:
    """The image under that tag, forgotten by the client afterwards."""
    image = f"{client.registry}/acme/app:{tag}"
    yield image
    client.remove(image)


def assert_pulled(client: Client, name: str, image: Image) -> None:
    """The client pulls this very image, and has it whole."""
    pull = client.pull(name)
    assert pull.ok, pull.output
    assert client.digest(name) == client.expects(image)
    assert client.holds(image)
    assert client.read(name, "seed") == seed_of(here(image))
    assert client.read(name, BUSYBOX) == busybox()


def test_a_signed_image_passes(client: Client, name: str, tag: str, upstream: Upstream, first: Image) -> None:
    """An index with several platforms, signed by skopeo, is pulled and unpacked; the file in it is the one that was pushed."""
    upstream.tag("acme/app", tag, first)
    assert_pulled(client, name, first)


def test_an_unsigned_image_is_refused(client: Client, name: str, tag: str, upstream: Upstream) -> None:
    """Nothing of it is kept, and the client says what was required, what was found, and by whose word."""
    image = upstream.push("acme/app", tag, picture("unsigned"))
    pull = client.pull(name)
    assert not pull.ok
    assert not client.holds(image)
    if client.explains:
        assert "a signature by key release-key is required" in pull.output
        assert "no signature" in pull.output
        assert str(image.digest) in pull.output


def test_a_digest_is_judged_like_a_tag(client: Client, upstream: Upstream, first: Image) -> None:
    """A signed image passes by digest, an unsigned one does not, for nobody signed the digest either."""
    unsigned = upstream.push("acme/app", "by-digest", picture("unsigned by digest"))
    good, bad = (f"{client.registry}/acme/app@{image.digest}" for image in (first, unsigned))
    pull = client.pull(good)
    assert pull.ok, pull.output
    assert client.holds(first)
    client.remove(good)
    pull = client.pull(bad)
    assert not pull.ok
    assert not client.holds(unsigned)
    if client.explains:
        assert "a signature by key release-key is required" in pull.output


def test_an_overwritten_tag_is_refused(
    client: Client, name: str, tag: str, upstream: Upstream, first: Image, second: Image
) -> None:
    """Although what it names now is signed just as well: the client is told both digests and keeps nothing of the new one."""
    upstream.tag("acme/app", tag, first)
    assert client.pull(name).ok
    client.remove(name)
    upstream.tag("acme/app", tag, second)
    pull = client.pull(name)
    assert not pull.ok
    assert not client.holds(second)
    if client.explains:
        assert "overwritten" in pull.output
        assert str(first.digest) in pull.output
        assert str(second.digest) in pull.output


def test_an_overwritten_tag_is_served_pinned(client: Client, tag: str, upstream: Upstream, first: Image, second: Image) -> None:
    """With ``on_overwrite: serve-pinned`` a client that starts anew gets what the tag meant before."""
    name = f"{client.registry}/acme/app:stay-{tag}"
    upstream.tag("acme/app", f"stay-{tag}", first)
    assert client.pull(name).ok
    client.remove(name)
    upstream.tag("acme/app", f"stay-{tag}", second)
    assert_pulled(client, name, first)
    assert not client.holds(second)
    client.remove(name)


def test_a_pinned_image_outlives_its_upstream(
    client: Client,
    tag: str,
    upstream: Upstream,
    first: Image,
    second: Image,
    fragile: dict[str, DockerRegistry],
    client_of: Callable[[str], Client],
) -> None:
    """A client that never had it gets all of it while the upstream is gone; what was never verified does not come in then."""
    known, unknown = (f"{client.fragile}/acme/app:{each}-{tag}" for each in ("known", "unknown"))
    upstream.tag("acme/app", f"known-{tag}", first)
    upstream.tag("acme/app", f"unknown-{tag}", second)
    assert client_of("skopeo-all").pull(known).ok
    registry = fragile[client.fragile]
    registry.stop()
    try:
        assert_pulled(client, known, first)
        client.remove(known)
        pull = client.pull(unknown)
        assert not pull.ok
        assert not client.holds(second)
        if client.explains:
            assert "has not been verified before and its upstream cannot be asked now" in pull.output
    finally:
        registry.start()
        client.remove(known)


def test_an_image_that_skopeo_itself_signed_passes(client: Client, tag: str, upstream: Upstream, recorded: Recording) -> None:
    """The recorded work of ``skopeo copy --all --sign-by-sigstore-private-key`` is accepted by every way a client pulls."""
    repository = f"recorded/{tag}"
    digests = (recorded.index.digest, *(child.digest for child in recorded.index.images))
    upstream.do(lambda pusher: recorded.push(pusher, repository, signed=digests))
    name = f"{client.registry}/{repository}:v1"
    pull = client.pull(name)
    assert pull.ok, pull.output
    assert client.digest(name) == client.expects(recorded.index)
    client.remove(name)


def test_skopeo_inspect_is_answered_by_the_same_gate(
    client_of: Callable[[str], Client], upstream: Upstream, first: Image, second: Image
) -> None:
    """``skopeo inspect`` of a signed image names its digest; of an unsigned and an overwritten one it says why not."""
    skopeo = client_of("skopeo")
    assert isinstance(skopeo, Skopeo)
    upstream.tag("acme/app", "inspected", first)
    shown = skopeo.inspect("reg.example/acme/app:inspected")
    assert shown.ok, shown.output
    assert f'"Digest": "{first.digest}"' in shown.output
    upstream.tag("acme/app", "inspected", second)
    assert "was overwritten upstream" in skopeo.inspect("reg.example/acme/app:inspected").output
    upstream.push("acme/app", "inspected-unsigned", picture("unsigned"))
    assert "no signature" in skopeo.inspect("reg.example/acme/app:inspected-unsigned").output


def test_signatures_are_copied_through_the_proxy(
    client_of: Callable[[str], Client], upstream: Upstream, recorded: Recording, proxy: Tagstone
) -> None:
    """The signature tags of what is served are served, so that a client behind the proxy can check them itself."""
    digests = (recorded.index.digest, *(child.digest for child in recorded.index.images))
    upstream.do(lambda pusher: recorded.push(pusher, "recorded/copied", signed=digests))
    assert proxy.manifest("reg.example/recorded/copied", "v1").status == 200
    for digest in digests:
        tag = f"sha256-{digest.hex}.sig"
        assert proxy.manifest("reg.example/recorded/copied", tag).body == recorded.manifests[tag].body
        pull = client_of("skopeo").pull(f"reg.example/recorded/copied:{tag}")
        assert pull.ok, pull.output


def test_one_signed_platform_does_not_vouch_for_the_index(upstream: Upstream, proxy: Tagstone) -> None:
    """``skopeo copy`` without ``--all`` signs one platform's image: that one passes by tag, an index over it does not."""
    image = upstream.signer.push(picture("single"), "acme/single", "one", multi_arch="system")
    served = proxy.manifest("reg.example/acme/single", "one")
    assert (served.status, served.digest) == (200, str(here(image).digest))
    upstream.push("acme/single", "index", image)
    assert proxy.manifest("reg.example/acme/single", "index").status == 403
    assert proxy.manifest("reg.example/acme/single", elsewhere(image).digest).status == 403
    assert proxy.manifest("reg.example/acme/single", here(image).digest).status == 200


def test_a_signed_index_vouches_for_its_platforms(upstream: Upstream, recorded: Recording, proxy: Tagstone) -> None:
    """Where only the index has a signature its children are served by digest, once it was accepted; under a tag they are not."""
    image, repository = recorded.index, "reg.example/recorded/index-only"
    upstream.do(lambda pusher: recorded.push(pusher, "recorded/index-only", signed=(image.digest,)))
    upstream.tag("recorded/index-only", "child", here(image))
    assert proxy.manifest(repository, here(image).digest).status == 403
    assert proxy.manifest(repository, "v1").status == 200
    for child in image.images:
        assert proxy.manifest(repository, child.digest).body == child.body
        for layer in child.layers:
            assert proxy.blob(repository, layer.digest).status == 200


def test_promise_56_all_clients_at_once_cost_the_upstream_one_fetch(
    client_of: Callable[[str], Client], upstream: Upstream
) -> None:
    """Clients of all kinds that pull a new image at the same moment all get it; each blob left the upstream once."""
    image = upstream.signed("acme/app", "at-once", picture("at once", layer_size=3_000_000))
    name = "reg.example/acme/app:at-once"
    clients = [client_of(each) for each in ("skopeo", "skopeo-all", "podman", "podman-conf", "ctr", "docker")]
    before = len(upstream.registry.log)
    with ThreadPoolExecutor(len(clients)) as pool:
        pulls = list(pool.map(lambda client: client.pull(name), clients))
    assert all(pull.ok for pull in pulls), pulls
    own = {child.layers[1].digest for child in image.images}
    fetches = [upstream.registry.count("GET", f"/v2/acme/app/blobs/{digest}") for digest in own]
    assert fetches == [1] * len(own)
    asked = [line for line in upstream.registry.log[before:].splitlines() if '"GET ' in line or '"HEAD ' in line]
    assert asked
    assert all('"tagstone/' in line for line in asked)  # and nobody but Tagstone has asked it anything
    for client in clients:
        client.remove(name)


def test_dockerd_goes_on_to_docker_hub_when_its_mirror_refuses(
    client_of: Callable[[str], Client], upstream: Upstream, first: Image, way_out: DeadEnd
) -> None:
    """What Tagstone serves never touches Docker Hub; what it refuses dockerd asks Hub for, and only its log has the reason.

    That is dockerd's design, which no answer of a mirror changes: where Hub cannot be reached, the pull fails.
    """
    docker = client_of("docker-mirror")
    assert isinstance(docker, DockerMirror)
    upstream.tag("acme/app", "by-mirror", first)
    upstream.push("acme/app", "by-mirror-unsigned", picture("unsigned"))
    before = len(way_out.asked)
    assert docker.pull("docker.io/acme/app:by-mirror").ok
    assert way_out.asked[before:] == []
    assert not docker.pull("docker.io/acme/app:by-mirror-unsigned").ok
    assert any("registry-1.docker.io" in line for line in way_out.asked[before:])
    assert "docker.io/acme/app:by-mirror-unsigned" in docker.daemon.log
    assert "a signature by key release-key is required; found: no signature at all" in docker.daemon.log
    docker.remove("docker.io/acme/app:by-mirror")
