"""The classification by table: what publishers and attackers do to a tag, one row each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.changes import (
    MEANINGS,
    Child,
    Kind,
    Provenance,
    Side,
    change_of,
    classify,
    details_of,
    document_of,
    not_known_yet,
    pairs,
    table,
)
from proxy.policy.changes import compare as compare_module
from storage.digest import Digest
from storage.records import Severity
from tests.simulator import images
from tests.simulator.builds import Build, Step, debian, nginx
from tests.simulator.images import Image
from tests.unit.policy.changes.pictures import KEY, compare, snapshot

OLD, NEW = nginx(), nginx("2026-06-01")
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
UNSIGNED: tuple[Sequence[str], Sequence[str]] = ((), ())
SAME = ((KEY,), (KEY,))
FLOW = "keyless https://token.actions.githubusercontent.com https://github.com/acme/app/.github/workflows/release.yml"
ON_TOP = Step("COPY xmrig /usr/local/bin/ # buildkit", "xmrig", 3000)


def running(build: Build, **members: object) -> Build:
    """The same layers and history, run in another way."""
    return replace(build, run={**build.run, **members})


def both(build: Build) -> Image:
    """An index with the build for two platforms."""
    return images.index([replace(build, platform=each).image() for each in ("linux/amd64", "linux/arm64")])


def ko(seed: str, command: str = "/ko-app/app") -> Build:
    """An image by a tool that writes no history and no dates."""
    return Build(
        (Step("", f"app-{seed}"),), run={"Entrypoint": [command], "User": "65532"}, created="1970-01-01T00:00:00Z", history=False
    )


def attested(build: Build) -> Image:
    """An index with the image, and an attestation manifest as BuildKit puts it beside."""
    statement = images.buildkit_index("x").images[1]
    notes = {"vnd.docker.reference.digest": str(build.image().digest), "vnd.docker.reference.type": "attestation-manifest"}
    entry = statement.entry(platform=images.platform_of("unknown/unknown"), annotations=notes)
    return images.index([build.image()], entries=[entry])


def chart() -> Image:
    """Something that is no image."""
    config = images.Blob("application/vnd.cncf.helm.config.v1+json", b'{"name": "x"}')
    body = images.encode(
        {
            "schemaVersion": 2,
            "mediaType": images.OCI_MANIFEST,
            "config": config.entry(),
            "layers": [images.layer("chart").entry()],
        }
    )
    return Image(images.OCI_MANIFEST, body, (config, images.layer("chart")))


def wasm(seed: str, **fields: object) -> Image:
    """The same layers with a config of a type that is no image's, and is run by some all the same."""
    config = images.Blob("application/vnd.wasm.config.v0+json", images.encode({"seed": seed}))
    manifest = {"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": config.entry(), **fields}
    return Image(images.OCI_MANIFEST, images.encode({**manifest, "layers": [images.layer("x").entry()]}), (config,))


def typed(build: Build, artifact_type: str) -> Image:
    """The same image with an artifact's type on top."""
    image = build.image()
    return replace(image, body=images.encode(json.loads(image.body) | {"artifactType": artifact_type}))


def unnamed(image: Image, other: Image) -> Image:
    """An index with an image, and another one of which it does not say for which platform it is."""
    return replace(images.index([image], entries=[other.entry()]), images=(image, other))


@dataclass(frozen=True)
class Row:
    """What was, what is, by whom each is signed; what is to be said of it."""

    name: str
    before: Build | Image
    after: Build | Image
    kinds: set[Kind] | None  #: None: see the severity
    severity: Severity | None
    signed: tuple[Sequence[str] | None, Sequence[str] | None] = UNSIGNED


ROWS = (
    Row("nothing", OLD, OLD, set(), None),
    Row("nothing of an index", both(OLD), both(OLD), set(), None),
    # what publishers do
    Row("a rebuild, unsigned", OLD, NEW, {Kind.BASE_REBUILT}, WARNING),
    Row("a rebuild by the same signer", OLD, NEW, {Kind.BASE_REBUILT}, INFO, SAME),
    Row("a rebuild of all platforms", both(OLD), both(NEW), {Kind.BASE_REBUILT, Kind.PLATFORMS_CHANGED}, INFO, SAME),
    Row("rebased: the same layers on another base", OLD, replace(OLD, base=debian("2026-06-01")), {Kind.BASE_REBUILT}, WARNING),
    Row(
        "a base image itself",
        Build(debian("2026-05-01")),
        Build(debian("2026-06-01"), created="2026-06-01T00:00:00Z"),
        {Kind.BASE_REBUILT},
        WARNING,
    ),
    Row(
        "another version of a base of one layer",
        Build((Step("ADD alpine-minirootfs-3.22.1-x86_64.tar.gz / # buildkit", "a1"),)),
        Build((Step("ADD alpine-minirootfs-3.22.2-x86_64.tar.gz / # buildkit", "a2"),)),
        {Kind.BASE_REBUILT},
        WARNING,
    ),
    Row(
        "a new version on the same base",
        OLD,
        replace(OLD, steps=(Step("RUN /bin/sh -c set -x && apt-get install -y nginx=1.29.2 # buildkit", "n2"), *OLD.steps[3:])),
        {Kind.LAYERS_REPLACED},
        WARNING,
        SAME,
    ),
    Row("no history, as before", ko("1"), ko("2"), {Kind.LAYERS_REPLACED}, WARNING),
    Row("only dates", OLD, replace(OLD, created="2026-05-02T00:00:00Z"), {Kind.CONFIG_METADATA}, INFO),
    Row("no date any more", OLD, replace(OLD, created="1970-01-01T00:00:00Z"), {Kind.CONFIG_METADATA}, INFO),
    Row("annotations of the image", OLD, replace(OLD, annotations={"a": "b"}), {Kind.METADATA}, INFO),
    Row("packed anew", OLD, replace(OLD, packing=9), {Kind.LAYERS_REPACKED}, WARNING),
    Row("an index around the same image", OLD, images.index([OLD.image()]), {Kind.METADATA}, INFO),
    Row("the image out of its index", images.index([OLD.image()]), OLD, {Kind.METADATA}, INFO),
    Row("an attestation beside it", images.index([OLD.image()]), attested(OLD), {Kind.METADATA}, INFO),
    Row("from Docker's types to OCI's", replace(OLD, media="docker"), OLD, {Kind.METADATA}, INFO),
    Row("a platform more", OLD, both(OLD), {Kind.PLATFORMS_ADDED}, WARNING),
    Row("a platform more, same signer", OLD, both(OLD), {Kind.PLATFORMS_ADDED}, INFO, SAME),
    Row("a platform less", both(OLD), OLD, {Kind.PLATFORMS_REMOVED}, WARNING, SAME),
    Row("for another platform", OLD, replace(OLD, platform="linux/arm64"), None, WARNING),
    # what attackers do
    Row("a layer on top", OLD, replace(OLD, steps=(*OLD.steps, ON_TOP)), {Kind.LAYERS_ADDED}, CRITICAL),
    Row("a layer on top, same signer", OLD, replace(OLD, steps=(*OLD.steps, ON_TOP)), {Kind.LAYERS_ADDED}, WARNING, SAME),
    Row(
        "a layer on top, and a signature lost",
        OLD,
        replace(OLD, steps=(*OLD.steps, ON_TOP)),
        {Kind.LAYERS_ADDED, Kind.SIGNATURE_LOST},
        CRITICAL,
        ((KEY,), ()),
    ),
    Row("a layer taken away", replace(OLD, steps=(*OLD.steps, ON_TOP)), OLD, {Kind.LAYERS_REMOVED}, WARNING),
    Row("the entrypoint replaced", OLD, running(OLD, Entrypoint=["/bin/sh", "-c", "x"]), {Kind.ENTRYPOINT}, CRITICAL),
    Row("the entrypoint replaced, same signer", OLD, running(OLD, Entrypoint=["/x"]), {Kind.ENTRYPOINT}, CRITICAL, SAME),
    Row(
        "a binary on top that runs first",
        OLD,
        running(replace(OLD, steps=(*OLD.steps, ON_TOP)), Entrypoint=["/usr/local/bin/xmrig", "/docker-entrypoint.sh"]),
        {Kind.LAYERS_ADDED, Kind.ENTRYPOINT},
        CRITICAL,
    ),
    Row("the command", OLD, running(OLD, Cmd=["sh"]), {Kind.COMMAND}, CRITICAL),
    Row("the command, same signer", OLD, running(OLD, Cmd=["sh"]), {Kind.COMMAND}, WARNING, SAME),
    Row("root", OLD, running(OLD, User=""), {Kind.USER, Kind.BECAME_ROOT}, CRITICAL, SAME),
    Row("root by number", OLD, running(OLD, User="0:0"), {Kind.USER, Kind.BECAME_ROOT}, CRITICAL, SAME),
    Row("root no longer", running(OLD, User="root"), OLD, {Kind.USER}, CRITICAL, SAME),
    Row("a port", OLD, running(OLD, ExposedPorts={"80/tcp": {}, "4444/tcp": {}}), {Kind.PORTS}, WARNING),
    Row("a variable", OLD, running(OLD, Env=[*OLD.run["Env"], "POOL=x"]), {Kind.ENVIRONMENT}, WARNING),
    Row("a variable twice", OLD, running(OLD, Env=["NGINX_VERSION=0", *OLD.run["Env"]]), {Kind.ENVIRONMENT}, WARNING),
    Row("the order of variables", OLD, running(OLD, Env=OLD.run["Env"][::-1]), {Kind.ENVIRONMENT}, WARNING),
    Row(
        "a variable that loads code",
        OLD,
        running(OLD, Env=[*OLD.run["Env"], "LD_PRELOAD=/x.so"]),
        {Kind.ENVIRONMENT, Kind.LOADS_CODE},
        CRITICAL,
        SAME,
    ),
    Row("the working directory", OLD, running(OLD, WorkingDir="/tmp"), {Kind.WORKING_DIR}, WARNING),
    Row("volumes", OLD, running(OLD, Volumes={"/data": {}}), {Kind.VOLUMES}, WARNING),
    Row("labels", OLD, running(OLD, Labels={}), {Kind.LABELS}, INFO),
    Row("the stop signal", OLD, running(OLD, StopSignal="SIGKILL"), {Kind.STOP_SIGNAL}, INFO),
    Row("the health check", OLD, running(OLD, Healthcheck={"Test": ["CMD-SHELL", "x"]}), {Kind.HEALTHCHECK}, CRITICAL),
    Row("the shell of builds", OLD, running(OLD, Shell=["/bin/bash"]), {Kind.CONFIG_METADATA}, INFO),
    Row("an older image", NEW, OLD, {Kind.BASE_REBUILT, Kind.DOWNGRADE}, CRITICAL, SAME),
    Row(
        "an older image with a new date",
        NEW,
        replace(OLD, created="2026-07-01T00:00:00Z"),
        {Kind.BASE_REBUILT, Kind.DOWNGRADE},
        CRITICAL,
    ),
    Row("another image", OLD, Build((Step("RUN make miner", "miner"),), run=OLD.run), {Kind.ANOTHER_IMAGE}, CRITICAL),
    Row(
        "another image on the same kind of base",
        Build((Step("/bin/sh -c #(nop) ADD file:" + "a" * 64 + " in / ", "b1"), Step("RUN one", "s1"))),
        Build((Step("/bin/sh -c #(nop) ADD file:" + "b" * 64 + " in / ", "b2"), Step("RUN two", "s2"))),
        {Kind.ANOTHER_IMAGE},
        CRITICAL,
    ),
    Row("another image, no history", ko("1"), ko("2", "/x"), {Kind.ANOTHER_IMAGE, Kind.ENTRYPOINT}, CRITICAL),
    Row("something else", OLD, chart(), None, CRITICAL),
    Row("something else that calls itself the same", OLD, wasm("1", artifactType=images.OCI_CONFIG), None, CRITICAL),
    Row("an artifact that became an image", wasm("1", artifactType="a/b"), typed(OLD, "a/b"), None, CRITICAL),
    Row("a config that nobody reads", wasm("1"), wasm("2"), {Kind.NOT_COMPARED}, WARNING, SAME),
    Row(
        "another image before it, for the same platform by another name",
        images.index([OLD.image()]),
        images.index([running(OLD, Cmd=["sh"]).image(), OLD.image()], platforms=["linux/x86_64", "linux/amd64"]),
        {Kind.COMMAND, Kind.PLATFORMS_ADDED, Kind.PLATFORMS_CHANGED},
        CRITICAL,
    ),
    Row(
        "another image before it, for no platform at all",
        images.index([OLD.image()]),
        unnamed(OLD.image(), running(OLD, Cmd=["sh"]).image()),
        {Kind.PLATFORMS_ADDED, Kind.PLATFORM_MISMATCH},
        CRITICAL,
    ),
    Row(
        "much larger",
        OLD,
        replace(OLD, steps=(*OLD.steps, replace(ON_TOP, size=1100 << 10))),
        {Kind.LAYERS_ADDED, Kind.GREW},
        CRITICAL,
    ),
    Row(
        "one platform of two",
        both(OLD),
        images.index([OLD.image(), running(replace(OLD, platform="linux/arm64"), Cmd=["sh"]).image()]),
        {Kind.COMMAND, Kind.PLATFORMS_CHANGED},
        CRITICAL,
    ),
    Row(
        "another image before the one that was there",
        images.index([OLD.image()]),
        images.index([running(OLD, Cmd=["sh"]).image(), OLD.image()]),
        {Kind.COMMAND, Kind.PLATFORMS_ADDED, Kind.PLATFORMS_CHANGED},
        CRITICAL,
    ),
    Row(
        "one platform's image under another's name",
        both(OLD),
        images.index([OLD.image()] * 2, platforms=["linux/amd64", "linux/arm64"]),
        None,
        CRITICAL,
    ),
    # signatures
    Row("signed by another key", OLD, NEW, {Kind.BASE_REBUILT, Kind.SIGNER_CHANGED}, CRITICAL, ((KEY,), ("key other 99",))),
    Row("a signature more", OLD, NEW, {Kind.BASE_REBUILT, Kind.SIGNATURE_GAINED}, INFO, ((KEY,), (KEY, "key b 98"))),
    Row("one of two signatures less", OLD, NEW, {Kind.BASE_REBUILT, Kind.SIGNATURE_LOST}, CRITICAL, ((KEY, "key b 98"), (KEY,))),
    Row("signed for the first time", OLD, NEW, {Kind.BASE_REBUILT, Kind.SIGNATURE_GAINED}, WARNING, ((), (KEY,))),
    Row("nobody knows who signed it", OLD, NEW, {Kind.BASE_REBUILT}, WARNING, (None, (KEY,))),
    Row("the same image without its signature", OLD, OLD, {Kind.SIGNATURE_LOST}, CRITICAL, ((KEY,), ())),
    Row(
        "the same workflow at another tag",
        OLD,
        NEW,
        {Kind.BASE_REBUILT},
        INFO,
        ((f"{FLOW}@refs/tags/v1",), (f"{FLOW}@refs/tags/v2",)),
    ),
    Row(
        "the same workflow on a branch",
        OLD,
        NEW,
        {Kind.BASE_REBUILT, Kind.SIGNER_CHANGED},
        CRITICAL,
        ((f"{FLOW}@refs/tags/v1",), (f"{FLOW}@refs/heads/x",)),
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_table(row: Row) -> None:
    """What changed is told by its kinds, and how much it matters; it survives being written down; nothing is told of nothing."""
    change = compare(row.before, row.after, row.signed)
    assert row.kinds is None or set(change.kinds) == row.kinds
    assert change.severity is row.severity, change
    assert (row.severity is None) == (not change.kinds) == (not change.lines)
    assert change_of(json.loads(json.dumps(document_of(change)))) == change
    assert len(json.dumps(details_of(change))) < 10_000


#: What a kind is called when the two images stand the other way round.
MIRROR = {
    Kind.PLATFORMS_ADDED: Kind.PLATFORMS_REMOVED,
    Kind.LAYERS_ADDED: Kind.LAYERS_REMOVED,
    Kind.GREW: Kind.SHRANK,
    Kind.SIGNATURE_GAINED: Kind.SIGNATURE_LOST,
    Kind.PROVENANCE_GAINED: Kind.PROVENANCE_LOST,
}
MIRROR |= {other: kind for kind, other in MIRROR.items()}
ONE_WAY = {Kind.BECAME_ROOT, Kind.DOWNGRADE, Kind.PLATFORM_MISMATCH, Kind.UNREADABLE, Kind.NOT_COMPARED}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_other_way_round(row: Row) -> None:
    """What was added one way was taken away the other way; nothing is told of an image and itself."""
    there = compare(row.before, row.after, row.signed)
    back = compare(row.after, row.before, row.signed[::-1])
    assert {MIRROR.get(kind, kind) for kind in there.kinds} - ONE_WAY == set(back.kinds) - ONE_WAY
    for image, signed in ((row.before, row.signed[0]), (row.after, row.signed[1])):
        assert compare(image, image, (signed, signed)).kinds == ()


PROVENANCE = Provenance("https://github.com/acme/app", "refs/tags/v1", "https://github.com/actions/runner/github-hosted")
BUILDER = "https://github.com/slsa-framework/x/.github/workflows/container.yml@refs/tags/"


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ((PROVENANCE,), (PROVENANCE,), set()),
        ((PROVENANCE,), (replace(PROVENANCE, ref="refs/tags/v2"),), {Kind.SOURCE_REF_CHANGED}),
        ((PROVENANCE,), (replace(PROVENANCE, source="https://github.com/evil/app"),), {Kind.SOURCE_CHANGED}),
        ((PROVENANCE,), (replace(PROVENANCE, source="", ref=""),), {Kind.SOURCE_CHANGED}),
        ((PROVENANCE,), (replace(PROVENANCE, builder="laptop"),), {Kind.BUILDER_CHANGED}),
        ((replace(PROVENANCE, builder=f"{BUILDER}v1"),), (replace(PROVENANCE, builder=f"{BUILDER}v2"),), set()),
        ((PROVENANCE,), (), {Kind.PROVENANCE_LOST}),
        ((), (PROVENANCE,), {Kind.PROVENANCE_GAINED}),
        (None, (PROVENANCE,), set()),
        ((PROVENANCE,), None, set()),
    ],
)
def test_provenance(before: tuple[Provenance, ...] | None, after: tuple[Provenance, ...] | None, kinds: set[Kind]) -> None:
    """Another repository, another branch, another builder: each is told apart."""
    change = classify(snapshot(OLD, (), before), snapshot(NEW, (), after))
    assert set(change.kinds) == kinds | {Kind.BASE_REBUILT}


def test_layers_stand_side_by_side() -> None:
    """From the bottom up: what both have, what the old one had, what the new one has; with sizes and what made them."""
    new = replace(OLD, steps=(*OLD.steps[:2], Step("RUN other", "other"), *OLD.steps[3:], ON_TOP))
    (one,) = compare(OLD, new).platforms
    assert [line.side for line in one.layers] == [Side.SAME, Side.BEFORE, Side.BEFORE, Side.AFTER, Side.AFTER, Side.AFTER]
    assert [line.command.split()[1] for line in one.layers[-3:]] == ["other", "docker-entrypoint.sh", "xmrig"]
    assert all(line.size > 0 for line in one.layers)


def test_what_is_shown_is_fit_to_be_shown() -> None:
    """Escape sequences, line breaks and invisible letters are escaped; secrets masked; what is long is cut; differences stay."""
    evil = running(
        OLD,
        Cmd=["\x1b]0;owned\x07", "a\u202egpj.exe\n"],
        Env=["API_TOKEN=abc", "DSN=postgres://u:hunter2@db/x", "LONG=" + "x" * 5000 + "1"],
    )
    other = running(OLD, Cmd=["x"], Env=["API_TOKEN=abd", "DSN=postgres://u:hunter3@db/x", "LONG=" + "x" * 5000 + "2"])
    change = compare(evil, other)
    text = json.dumps(document_of(change), ensure_ascii=False)
    assert text.isprintable()
    assert not {"hunter2", "hunter3", '"abc', "abd"} & set(re.findall(r"hunter\d|\"abc|abd", text))
    (one,) = change.platforms
    for difference in one.differences:
        assert difference.before != difference.after
        assert len(difference.before or "") < 600
    assert "\\x1b]0;owned\\x07" in next(each.before or "" for each in one.differences if each.name == "command")


CHILDREN = st.lists(
    st.builds(
        Child,
        st.sampled_from(["linux/amd64", "linux/arm64", ""]),
        st.sampled_from([Digest.of(b"1"), Digest.of(b"2")]),
        st.just(1),
    ),
    max_size=6,
)


@given(before=CHILDREN, after=CHILDREN)
def test_every_image_of_an_index_stands_against_one_at_most(before: list[Child], after: list[Child]) -> None:
    """None is left out, none counts twice; of a platform the first stand against each other, and then those that are the same."""
    found = pairs(before, after)
    for side, children in (("before", before), ("after", after)):
        stood = [each for pair in found if (each := getattr(pair, side)) is not None]
        assert Counter(map(id, stood)) == Counter(map(id, children))
    if len(before) == len(after) == 1:
        return
    for platform in {child.platform for child in (*before, *after)}:
        here = [pair for pair in found if pair.platform == platform]
        left, right = ([child for child in side if child.platform == platform] for side in (before, after))
        assert (here[0].before is left[0] and here[0].after is right[0]) if left and right else not (left and right)
        rest = [pair for pair in here[1:] if not pair.same]
        assert not {p.before.digest for p in rest if p.before} & {p.after.digest for p in rest if p.after}


def test_layers_are_packed_anew_only_where_the_config_speaks_of_all_of_them() -> None:
    """The same list of unpacked layers beside another number of layers says nothing."""
    old, new = snapshot(OLD), snapshot(replace(OLD, packing=9))
    (child,) = new.children
    assert child.image is not None
    more = replace(child.image, layers=(*child.image.layers, images.layer("x").descriptor))
    change = classify(old, replace(new, children=(replace(child, image=more),)))
    assert Kind.LAYERS_REPACKED not in change.kinds
    assert change.severity is WARNING


def test_ten_thousand_variables_are_compared_by_name_and_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are looked at, each once; what is not shown is not made fit to be shown."""
    shown: list[str] = []

    def variable(name: str, value: str) -> str:
        shown.append(name)
        return value

    monkeypatch.setattr(compare_module, "variable", variable)
    many = [f"V{number}=a" for number in range(9_999)]
    change = compare(running(OLD, Env=["PATH=/bin", *many]), running(OLD, Env=["PATH=/x", *(f"{each}b" for each in many)]))
    assert set(change.kinds) == {Kind.ENVIRONMENT, Kind.LOADS_CODE}
    assert any("and 9992 more" in line for line in change.lines)
    assert len(shown) <= 2 * 100 + 2


def test_what_cannot_be_read_is_never_nothing() -> None:
    """The new image's config or manifest: critical. The old one's, or too many platforms: not all was compared."""
    old, new = snapshot(OLD), snapshot(NEW)
    (child,) = new.children
    assert child.image is not None
    for broken in (
        replace(child, image=replace(child.image, read=None, trouble="its config is broken")),
        replace(child, image=None, trouble="its manifest is refused"),
    ):
        change = classify(old, replace(new, children=(broken,)))
        assert Kind.UNREADABLE in change.kinds
        assert change.severity is CRITICAL
        change = classify(replace(new, children=(broken,), digest=old.digest), replace(old, digest=new.digest))
        assert Kind.NOT_COMPARED in change.kinds
    unread = Child("linux/amd64", Digest.of(b"x"), 3)
    change = classify(old, replace(new, children=(unread,)))
    assert (change.kinds, change.severity) == ((Kind.NOT_COMPARED,), WARNING)
    added = replace(child, platform="linux/arm64", image=None, trouble="its manifest is refused")
    assert Kind.UNREADABLE in classify(old, replace(old, digest=new.digest, children=(*old.children, added))).kinds


def test_what_is_not_known_yet_is_said() -> None:
    """An outage is neither nothing nor a finding: a warning, with the reason, to be tried again."""
    old, new = snapshot(OLD), snapshot(NEW)
    change = classify(old, replace(new, children=(Child("linux/amd64", Digest.of(b"x"), 3, pending=True),)), ("it is down",))
    assert (change.kinds, change.severity, change.settled) == ((Kind.NOT_KNOWN_YET,), WARNING, False)
    assert change.lines == ("it is down",)
    nothing = not_known_yet(old.digest, new.digest, ("it is down",))
    assert (nothing.severity, nothing.settled) == (WARNING, False)
    assert change_of(document_of(nothing)) == nothing


def test_the_summary_is_one_line() -> None:
    """Severity, then the worst kinds first; for a whole index, too."""
    change = compare(OLD, running(NEW, Entrypoint=["/x"], User="0", Cmd=["y"], StopSignal="SIGKILL"), ((KEY,), ()))
    assert change.summary.startswith("critical: the entrypoint changed; the command changed; the user changed; ")
    assert change.summary.endswith("more")
    assert compare(OLD, OLD).summary == "nothing differs"
    index = compare(both(OLD), both(NEW))
    assert index.summary == "warning: the base was rebuilt"
    assert index.lines[0].endswith("(linux/amd64, linux/arm64)")
    assert [each.platform for each in index.only("linux/arm64").platforms] == ["linux/arm64"]


def test_a_document_of_another_version_is_not_read() -> None:
    """What another version wrote, or nobody did, is no change."""
    document = document_of(compare(OLD, NEW))
    for broken in ({**document, "version": 0}, {**document, "kinds": ["x"]}, {**document, "before": "x"}, {"version": 1}):
        with pytest.raises(ValueError):
            change_of(broken)


def test_every_kind_has_its_meaning() -> None:
    """None is missing in the table that severities and docs are made of."""
    assert set(MEANINGS) == set(Kind)


def test_the_docs_have_the_table() -> None:
    """Whoever is on call reads the severities that hold."""
    assert table() in (Path(__file__).parents[4] / "docs" / "overwrites.md").read_text()
