"""What can be said of a workload, over a real database: one situation, one row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from proxy.drift.standings import Finding, Names, Status, judge, mirrors, question
from proxy.drift.workloads import Claim, Source, Workload
from proxy.policy.patterns import Pattern
from proxy.policy.rules import FirstUse, Never, Rule
from proxy.routing import Router
from storage.catalog import Catalog
from storage.database import Database
from storage.digest import Digest
from storage.errors import MalformedName
from storage.pins import PinStore
from storage.records import Descriptor, Edge, Kind, Pin, PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository
from storage.running import RunningStore
from tests.unit.storage.values import (
    APP,
    LATER,
    OTHER,
    block,
    digest,
    edge,
    first_pin,
    manifest,
    overwrite,
    pinned,
    unpin,
    verdict,
)

RULE = Rule(Pattern.compile("**"), FirstUse(), (), "f")
DENY = replace(RULE, require=Never())
NOW = LATER + timedelta(hours=1)
ROUTER = Router(frozenset({"docker.io", "ghcr.io", "corp.example:5443"}), {"hub.mirror.example": "docker.io"}, "docker.io")
NAMES = Names(ROUTER, ("mirror.example:5000",))
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def config_edge(parent: object, child: object) -> Edge:
    """The edge to an image's config."""
    return Edge(digest(parent), Descriptor(CONFIG_TYPE, digest(child), 300), Kind.BLOB)


@dataclass(frozen=True)
class World:
    """A database, and what it says of workloads."""

    pins: PinStore
    catalog: Catalog
    running: RunningStore

    async def admit(self, what: str = "one", *, accepted: bool = True, fingerprint: str = "f") -> None:
        """Record an index of two images, each with its config and a layer, and the verdict on it."""
        below = [manifest(f"{what} amd64"), manifest(f"{what} arm64")]
        edges = [Edge(digest(what), each, Kind.MANIFEST) for each in below]
        for name in ("amd64", "arm64"):
            edges += [config_edge(f"{what} {name}", f"{what} {name} config"), edge(f"{what} {name}", f"{what} {name} layer")]
        judged = verdict(what, accepted, fingerprint=fingerprint)
        await self.catalog.record(APP, manifest=manifest(what), edges=edges, verdict=judged, below=below)

    async def pin(self, what: str = "one", tag: str = "v1") -> Pin:
        """Admit it, and pin a tag to it."""
        await self.admit(what)
        return await pinned(self.pins, first_pin(tag, what))

    async def rotate(self, pin: Pin, what: str) -> Pin:
        """Move a pin."""
        await self.admit(what)
        new = replace(pin, digest=digest(what), pinned_at=LATER, pinned_by="olga", version=pin.version + 1)
        change = PinChange(pin.repository, pin.tag, PinAction.APPROVED, LATER, "olga", "looked at it", pin.digest, digest(what))
        return await pinned(self.pins, PinWrite(pin, new, change))

    async def find(self, *claims: object, image: str = "ghcr.io/acme/app:v1", rule: Rule = RULE, name: str = "") -> Finding:
        """What is said of a container of this image, of which a source claims these digests."""
        held = tuple(Claim(name, each if isinstance(each, Digest) else digest(each)) for each in claims)
        workload = Workload(Source.DOCKER, "", "", "web", image=image, claims=held, missing="nothing was said")
        places = await self.running.places([claim.digest for claim in held])
        asked = question(workload, NAMES, places)
        fingerprints = dict.fromkeys(asked.repositories, rule.fingerprint)
        picture = await self.running.look(asked.pairs, fingerprints, asked.repositories)
        return judge(asked, picture, lambda _: rule, NOW)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An empty one."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield World(PinStore(database), Catalog(database), RunningStore(database))
    await database.close()


@pytest.mark.parametrize("reported", ["one", "one amd64", "one arm64", "one amd64 config"])
async def test_approved_by_whichever_digest_is_reported(world: World, reported: str) -> None:
    """The pinned index, the image of a platform, and an image's ID all are what the pin holds."""
    await world.pin()
    found = await world.find(reported)
    assert (found.status, found.pin, found.pinned) == (Status.APPROVED, "ghcr.io/acme/app:v1", digest("one"))


async def test_a_layer_is_no_name_of_an_image(world: World) -> None:
    """An image whose ID is the digest of an approved image's layer is not approved by that."""
    await world.pin()
    assert (await world.find("one amd64 layer")).status is Status.NEVER_SEEN


async def _nothing(world: World) -> None:
    pass


async def _by_digest(world: World) -> None:
    await world.admit()


async def _rotated(world: World) -> None:
    await world.rotate(await world.pin(), "two")


async def _unpinned(world: World) -> None:
    await world.pins.apply(unpin(await world.pin()))


async def _other_tag(world: World) -> None:
    await world.pin("two")
    await world.pin("one", "v2")


async def _only_other_tag(world: World) -> None:
    await world.pin("one", "v2")


async def _candidate(world: World) -> None:
    await world.admit("one", accepted=False)
    await world.pins.apply(overwrite(await world.pin("two"), "one"))


async def _unrecorded_candidate(world: World) -> None:
    await world.pins.apply(overwrite(await world.pin("two"), "one"))


async def _rejected(world: World) -> None:
    pin = await world.pin("two")
    change = PinChange(APP, "v1", PinAction.REJECTED, LATER, "olga", "", pin.digest, digest("one"))
    await world.pins.apply(PinWrite(pin, replace(pin, rejected=digest("one")), change))


async def _blocked(world: World) -> None:
    await world.pin()
    await world.catalog.block(block("one"))


async def _blocked_unseen(world: World) -> None:
    await world.catalog.block(block("one"))


async def _revoked(world: World) -> None:
    pin = await world.pin()
    change = PinChange(APP, "v1", PinAction.REVOKED, LATER, "rule **", "", pin.digest, pin.digest)
    await world.pins.apply(PinWrite(pin, replace(pin, state=PinState.REVOKED), change))


async def _refused_since(world: World) -> None:
    await world.pin()
    await world.catalog.record(APP, manifest=None, edges=(), verdict=verdict("one", accepted=False))


async def _admitted_then_refused(world: World) -> None:
    await world.admit(fingerprint="older")
    await world.admit(accepted=False)


async def _older_question(world: World) -> None:
    await world.admit(fingerprint="older")


async def _expired(world: World) -> None:
    await world.catalog.record(APP, manifest=manifest("one"), edges=(), verdict=verdict("one", valid_until=LATER))


async def _refused(world: World) -> None:
    await world.admit(accepted=False)


async def _refused_and_tag_pinned(world: World) -> None:
    await world.pin("two")
    await world.admit(accepted=False)


async def _pinned_elsewhere(world: World) -> None:
    await world.pin("two")
    await world.catalog.record(OTHER, manifest=manifest("one"), edges=(), verdict=verdict("one", repository=OTHER))


SITUATIONS: dict[Callable[[World], Awaitable[None]], tuple[Status, str]] = {
    _nothing: (Status.NEVER_SEEN, "nothing is known of sha256:"),
    _by_digest: (Status.BY_DIGEST, "no pin holds it"),
    _rotated: (
        Status.OVERWRITTEN,
        f"v1 is pinned to {digest('two')} now; what runs was its pin until 2026-01-02 04:04 UTC, when olga",
    ),
    _unpinned: (Status.OVERWRITTEN, "v1 is not pinned any more; what runs was its pin until 2026-01-02 04:04 UTC, when olga"),
    _other_tag: (Status.OVERWRITTEN, "by rule **; what runs never was its pin, and is that of ghcr.io/acme/app:v2"),
    _only_other_tag: (Status.APPROVED, "v2 is pinned to it"),
    _candidate: (Status.CANDIDATE, "was overwritten upstream with it since 2026-01-02 04:04 UTC"),
    _unrecorded_candidate: (Status.CANDIDATE, "was overwritten upstream with it"),
    _rejected: (Status.CANDIDATE, "an operator rejected it"),
    _blocked: (Status.BLOCKED, "it was blocked by olga at 2026-01-02 03:04 UTC: backdoor"),
    _blocked_unseen: (Status.BLOCKED, "backdoor"),
    _revoked: (Status.REVOKED, "v1 is pinned to it, and does not pass any more"),
    _refused_since: (Status.REVOKED, "does not pass any more: a signature by key k; found"),
    _admitted_then_refused: (Status.REVOKED, "does not pass any more"),
    _older_question: (Status.UNKNOWN, "has not been judged by today's rules"),
    _expired: (Status.UNKNOWN, "has not been judged by today's rules"),
    _refused: (Status.REFUSED, "it was judged, and refused: a signature by key k"),
    _refused_and_tag_pinned: (Status.REFUSED, "it was judged, and refused"),
    _pinned_elsewhere: (
        Status.NEVER_SEEN,
        f"v1 is pinned to {digest('two')}; the same digest is known in docker.io/library/nginx",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__.strip("_"))
async def test_each_situation_has_its_standing(world: World, situation: Callable[[World], Awaitable[None]]) -> None:
    """A container started from the tag v1 that runs the digest "one"."""
    await situation(world)
    status, why = SITUATIONS[situation]
    found = await world.find("one")
    assert found.status is status, found.reason
    assert why in found.reason


async def test_it_is_said_when_and_by_whom_a_tag_was_moved(world: World) -> None:
    """As values for scripts, also for a container that was started by digest."""
    await _rotated(world)
    for image in ("ghcr.io/acme/app:v1", f"ghcr.io/acme/app@{digest('one')}", f"ghcr.io/acme/app:v1@{digest('one')}"):
        found = await world.find("one amd64", image=image)
        assert (found.status, found.moved_at, found.moved_by) == (Status.OVERWRITTEN, LATER, "olga")
        assert (found.pin, found.pinned) == ("ghcr.io/acme/app:v1", digest("two"))


async def test_by_digest_and_by_any_tag_a_candidate_is_one(world: World) -> None:
    """Who pulled the refused digest by its name has the candidate, unless another pin holds it."""
    await _candidate(world)
    by_digest = f"ghcr.io/acme/app@{digest('one')}"
    assert (await world.find("one", image=by_digest)).status is Status.CANDIDATE
    await world.pin("one", "v2")
    assert (await world.find("one", image=by_digest)).status is Status.APPROVED
    assert (await world.find("one")).status is Status.CANDIDATE


async def test_a_rule_that_denies_revokes(world: World) -> None:
    """What was pinned under a rule that denies everything now is not approved any more, pinned or not."""
    await world.pin()
    await world.admit("two")
    for reported in ("one", "two"):
        found = await world.find(reported, image=f"ghcr.io/acme/app@{digest(reported)}", rule=DENY)
        assert (found.status, found.reason) == (Status.REVOKED, 'it was accepted before, and rule "**" denies it now')


@pytest.mark.parametrize(
    ("blocked", "reported", "status"),
    [
        ("one amd64 layer", "one amd64 config", Status.BLOCKED),
        ("one amd64 layer", "one amd64", Status.BLOCKED),
        ("one amd64 config", "one amd64 config", Status.BLOCKED),
        ("one amd64", "one amd64 config", Status.BLOCKED),
        ("one", "one amd64 config", Status.BLOCKED),
        ("one amd64", "one", Status.UNKNOWN),
        ("one amd64 layer", "one", Status.UNKNOWN),
        ("one amd64", "one arm64", Status.APPROVED),
        ("one amd64 layer", "one arm64 config", Status.APPROVED),
    ],
)
async def test_blocks_are_found_above_and_below(world: World, blocked: str, reported: str, status: Status) -> None:
    """A block on anything that an image is made of; of an index with one blocked platform nobody can tell which one runs."""
    await world.pin()
    await world.catalog.block(block(blocked))
    found = await world.find(reported)
    assert found.status is status
    assert ("blocked by olga" in found.reason) is (status is not Status.APPROVED)


async def test_a_platform_that_is_known_settles_what_the_index_leaves_open(world: World) -> None:
    """With the image's ID beside the index, the blocked platform is the one that runs, or is not."""
    await world.pin()
    await world.catalog.block(block("one amd64"))
    assert (await world.find("one", "one arm64 config")).status is Status.APPROVED
    assert (await world.find("one", "one amd64 config")).status is Status.BLOCKED


async def test_an_admitted_index_with_a_blocked_platform_cannot_be_told(world: World) -> None:
    """The same where no pin holds it."""
    await world.admit()
    await world.catalog.block(block("one amd64"))
    assert (await world.find("one")).status is Status.UNKNOWN


async def test_two_names_of_one_content_the_better_counts(world: World) -> None:
    """The image's ID is not known here, the digest that it was pulled by is: the same content, and approved."""
    await world.pin()
    assert (await world.find("unheard of", "one")).status is Status.APPROVED


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/acme/app:v1",
        "mirror.example:5000/ghcr.io/acme/app:v1",
        "unheard.example:5000/ghcr.io/acme/app:v1",
        "127.0.0.1:5000/ghcr.io/acme/app:v1",
    ],
)
async def test_names_below_a_mirror_mean_what_is_behind_it(world: World, image: str) -> None:
    """A mirror's name is known from the configuration, or seen by the registry that follows it."""
    await world.pin()
    found = await world.find("one", image=image)
    assert (found.status, found.repository, found.tag) == (Status.APPROVED, APP, "v1")


@pytest.mark.parametrize(
    ("image", "meant"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("mirror.example:5000/nginx:1", "docker.io/library/nginx:1"),
        ("mirror.example:5000/corp.example__5443/a/b:1", "corp.example:5443/a/b:1"),
        ("hub.mirror.example/library/nginx:1", "docker.io/library/nginx:1"),
        ("10.0.0.1:5000/index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("quay.io/docker.io", "quay.io/docker.io:latest"),
        ("quay.io/acme/app:1", "quay.io/acme/app:1"),
    ],
)
def test_names_are_read_as_runtimes_and_router_read_them(image: str, meant: str) -> None:
    """Without a registry it is Docker Hub's; hosts stand for registries; a port is written with two underscores."""
    assert str(NAMES.read(image)) == meant


def test_a_mirrors_name_without_a_registry_behind_it_means_nothing() -> None:
    """As the router refuses it, it is no image; a mirror that is no registry's name is refused at once."""
    with pytest.raises(MalformedName, match=r"quay\.io is not configured"):
        NAMES.read("mirror.example:5000/quay.io/acme/app")
    with pytest.raises(MalformedName):
        mirrors(["http://mirror"])


async def test_what_names_no_image_is_looked_for_by_its_digests(world: World) -> None:
    """Started by an image's ID: in the repositories that its digests name, and wherever they are recorded."""
    await world.pin()
    identifier = digest("one amd64 config")
    for image in (str(identifier), identifier.hex, identifier.hex[:12], ""):
        found = await world.find(identifier, image=image)
        assert (found.status, found.repository) == (Status.APPROVED, APP)
    unknown = digest("unheard of")
    assert (await world.find(unknown, image=str(unknown), name="ghcr.io/acme/app")).repository == APP
    for name in ("", "No Name"):
        found = await world.find(unknown, image=str(unknown), name=name)
        assert (found.status, found.repository) == (Status.NEVER_SEEN, None)


async def test_without_a_digest_or_a_name_it_cannot_be_told(world: World) -> None:
    """The source's own words say what is missing."""
    found = await world.find()
    assert (found.status, found.reason, found.repository) == (Status.UNKNOWN, "nothing was said", APP)
    found = await world.find("one", image="Not A Name")
    assert (found.status, found.repository) == (Status.UNKNOWN, None)
    assert found.reason.startswith("the name of its image means nothing: ")


async def test_another_repositorys_rights_are_not_this_ones(world: World) -> None:
    """A digest that is pinned in one repository says nothing in another, but that it is known there."""
    await world.pin()
    found = await world.find("one", image="nginx:1")
    assert (found.status, found.repository) == (Status.NEVER_SEEN, Repository.of("docker.io", "nginx"))
    assert found.reason.endswith("; the same digest is known in ghcr.io/acme/app")
