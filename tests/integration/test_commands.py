"""The operator's commands on the files of a running server with two workers: what they answer, and how soon it is felt."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Upstream, config_of
from tests.integration.processes import Reply, Tagstone, ask_on, until
from tests.simulator import images
from tests.simulator.builds import Step, nginx
from tests.simulator.images import Image
from tests.tools import SOON, free_port

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def pair(base: Path, upstream: Upstream, keys: Path) -> Iterator[Tagstone]:
    """A server with two workers; ``dead.example`` is an upstream where nobody answers."""
    config = config_of(keys, reg=upstream.registry.host, dead=f"127.0.0.1:{free_port()}")
    with Tagstone(base / "pair", config, workers=2) as server:
        yield server


@pytest.fixture
def workers(pair: Tagstone) -> Iterator[list[http.client.HTTPConnection]]:
    """A connection to each of the two."""
    with pair.by_worker() as found:
        assert len(found) == 2
        yield list(found.values())


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository that no other test uses."""
    return f"acme/{request.node.name.removeprefix('test_').replace('_', '-')[:80].strip('-')}"


Workers = list[http.client.HTTPConnection]


def everywhere(workers: Workers, path: str, holds: Callable[[Reply], bool]) -> None:
    """Every worker's answer comes to be as it should, soon after an act, and stays so."""

    def all_hold() -> bool:
        return all(holds(ask_on(connection, "GET", path)) for connection in workers)

    until(all_hold, SOON)  # it is promised within a second
    assert all_hold()


def signed(upstream: Upstream, repository: str, tag: str, seed: str) -> Image:
    """A small signed image."""
    return upstream.signed(repository, tag, images.image(f"{repository}/{seed}"))


def overwritten(upstream: Upstream, pair: Tagstone, workers: Workers, repository: str) -> tuple[str, str, Image, Image]:
    """A tag that is pinned to one image and names another: its name, its path, both images."""
    first = signed(upstream, repository, "v1", "first")
    path = f"/v2/reg.example/{repository}/manifests/v1"
    everywhere(workers, path, lambda reply: reply.digest == str(first.digest))
    second = signed(upstream, repository, "v1", "second")
    everywhere(workers, path, lambda reply: reply.status == 403)
    return f"reg.example/{repository}:v1", path, first, second


def test_pins_are_listed_and_shown(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """``pins list`` finds by glob and by state, ``pins show`` has the history; both as JSON."""
    name, _, first, second = overwritten(upstream, pair, workers, repository)
    other = signed(upstream, repository, "v2", "other")
    assert pair.manifest(f"reg.example/{repository}", "v2").digest == str(other.digest)
    listed = pair.json("pins", "list", f"reg.example/{repository}:*")["pins"]
    assert [(pin["name"], pin["state"], pin["digest"]) for pin in listed] == [
        (name, "overwritten", str(first.digest)),
        (f"reg.example/{repository}:v2", "pinned", str(other.digest)),
    ]
    found = pair.json("pins", "list", f"reg.example/{repository}:*", "--state", "overwritten")["pins"]
    assert [pin["name"] for pin in found] == [name]
    shown = pair.json("pins", "show", name)
    assert (shown["registry"], shown["repository"], shown["tag"]) == ("reg.example", repository, "v1")
    assert (shown["digest"], shown["candidate"], shown["state"]) == (str(first.digest), str(second.digest), "overwritten")
    assert [(change["action"], change["to"]) for change in shown["history"][:2]] == [
        ("pinned", str(first.digest)),
        ("overwritten", str(second.digest)),
    ]
    assert shown["waiting"]["digest"] == str(second.digest)
    text = pair.run("pins", "show", name).stdout
    assert f"tagstone pins approve {name} --digest {second.digest}" in text


def test_what_an_overwrite_changed_is_shown(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """A layer on top and another entrypoint: told by the running server by itself, and side by side by ``pins diff`` (exit 1)."""
    before = nginx()
    on_top = Step("COPY xmrig /usr/local/bin/ # buildkit", "xmrig", 3000)
    after = replace(before, steps=(*before.steps, on_top), run={**before.run, "Entrypoint": ["/usr/local/bin/xmrig"]})
    upstream.signed(repository, "v1", before.image())
    path = f"/v2/reg.example/{repository}/manifests/v1"
    everywhere(workers, path, lambda reply: reply.digest == str(before.image().digest))
    upstream.push(repository, "v1", after.image())
    everywhere(workers, path, lambda reply: reply.status == 403)
    name = f"reg.example/{repository}:v1"
    changed = until(lambda: pair.json("pins", "show", name)["changed"])
    assert changed["severity"] == "critical"
    assert set(changed["kinds"]) == {"layers-added", "entrypoint", "signature-lost"}
    done = pair.run("pins", "diff", name, "--files")
    assert done.returncode == 1, done.stderr
    text = done.stdout
    assert changed["change"] in text
    assert on_top.command in text
    assert "no longer signed by key release-key" in text
    assert "~ /seed  content: " in text
    for digest in (after.image().digest, after.image().config.digest, after.image().layers[-1].digest):
        kind = "manifests" if digest == after.image().digest else "blobs"
        asked = f"/v2/reg.example/{repository}/{kind}/{digest}"
        assert all(ask_on(connection, "GET", asked).status == 403 for connection in workers)


def test_an_approval_moves_the_pin_in_every_worker(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """The command that ``pins show`` prints is the one that works; who and why are kept."""
    name, path, first, second = overwritten(upstream, pair, workers, repository)
    told = ("--by", "alice", "--reason", "the release was rebuilt")
    act = pair.json("pins", "approve", name, "--digest", str(second.digest), *told)
    everywhere(workers, path, lambda reply: reply.digest == str(second.digest))
    assert (act["result"], act["pin"]["digest"], act["pin"]["state"]) == ("done", str(second.digest), "pinned")
    last = pair.json("pins", "show", name)["history"][-1]
    assert (last["action"], last["by"], last["reason"]) == ("approved", "alice", "the release was rebuilt")
    assert (last["from"], last["to"]) == (str(first.digest), str(second.digest))


def test_an_approval_does_not_stand_for_a_signature(
    pair: Tagstone, workers: Workers, upstream: Upstream, repository: str
) -> None:
    """An unsigned digest cannot be approved (exit 1), nor one that the upstream does not have; the pin stays."""
    name, path, first, _ = overwritten(upstream, pair, workers, repository)
    unsigned = upstream.push(repository, "v1", images.image(f"{repository}/unsigned"))
    refused = pair.json("pins", "approve", name, "--digest", str(unsigned.digest), code=1)
    assert refused["result"] == "refused"
    assert "a signature by key release-key is required" in " ".join(refused["reasons"])
    absent = pair.json("pins", "approve", name, "--digest", f"sha256:{'0' * 64}", code=1)
    assert absent["result"] == "refused"
    assert "does not exist upstream" in " ".join(absent["reasons"])
    assert refused["pin"]["digest"] == str(first.digest)
    assert all(ask_on(connection, "GET", path).status == 403 for connection in workers)


def test_a_rejection_is_told_to_the_clients(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """The tag stays refused, now with the word that somebody looked at it; the pinned digest can be pulled."""
    name, path, first, second = overwritten(upstream, pair, workers, repository)
    act = pair.json("pins", "reject", name, "--by", "bob", "--reason", "not ours")
    assert (act["result"], act["pin"]["rejected"]) == ("done", str(second.digest))
    everywhere(workers, path, lambda reply: "an operator rejected the new digest" in reply.error["message"])
    assert pair.manifest(f"reg.example/{repository}", first.digest).status == 200
    again = pair.json("pins", "reject", name, "--digest", str(first.digest), code=1)
    assert "tagstone pins unpin" in again["message"]


def test_an_unpinned_tag_is_pinned_anew(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """``pins unpin`` lets the next pull decide; the history stays."""
    name, path, _, second = overwritten(upstream, pair, workers, repository)
    assert pair.json("pins", "unpin", name, "--by", "carol", "--reason", "start over")["result"] == "done"
    everywhere(workers, path, lambda reply: reply.digest == str(second.digest))
    history = pair.json("pins", "show", name)["history"]
    actions = [change["action"] for change in history if change["action"] != "judged"]  # beside the pulls: now or later
    assert actions == ["pinned", "overwritten", "unpinned", "pinned"]


def test_a_block_holds_everywhere_at_once(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """A blocked image is refused by tag and by digest, a blocked layer by itself, in every worker; unblocking gives them back."""
    image = signed(upstream, repository, "v1", "blocked")
    prefix = f"/v2/reg.example/{repository}"
    paths = (f"{prefix}/manifests/v1", f"{prefix}/manifests/{image.digest}", f"{prefix}/blobs/{image.layers[0].digest}")
    for path in paths:
        everywhere(workers, path, lambda reply: reply.status == 200)
    pair.json("block", str(image.digest), "--by", "dora", "--reason", "backdoor in it")
    for path in paths:
        everywhere(workers, path, lambda reply: reply.status == 403 and "backdoor in it" in reply.error["message"])
    blocks = {each["digest"]: each for each in pair.json("block")["blocks"]}
    assert (blocks[str(image.digest)]["by"], blocks[str(image.digest)]["reason"]) == ("dora", "backdoor in it")
    pair.json("unblock", str(image.digest), "--by", "dora")
    for path in paths:
        everywhere(workers, path, lambda reply: reply.status == 200)
    pair.json("unblock", str(image.digest), code=1)

    assert pair.run("block", str(image.layers[0].digest), "--reason", "secrets in it").returncode == 0
    # Whoever has the layer from elsewhere could run the image: it is refused as well.
    for path in paths:
        everywhere(workers, path, lambda reply: reply.status == 403 and "secrets in it" in reply.error["message"])


def test_pulls_tell_who_was_handed_an_image(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """Every worker's answers are found by image, by digest, and by a layer of it; exit 1 where there were none."""
    image = signed(upstream, repository, "v1", "pulled")
    path, agent = f"/v2/reg.example/{repository}/manifests", "containerd/v1.7.27 \xa0"
    for connection in workers:
        assert ask_on(connection, "HEAD", f"{path}/v1", User_Agent=agent).status == 200
        assert ask_on(connection, "GET", f"{path}/{image.digest}", User_Agent=agent).status == 200
    asked = ("--image", f"reg.example/{repository}", "--since", "1h")

    def found(*options: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(pair.run("pulls", *options, "--json").stdout)["pulls"]
        return told

    def whole() -> list[dict[str, Any]]:
        records = found(*asked)
        return records if [sum(each[kind] for each in records) for kind in ("fetched", "resolved")] == [2, 2] else []

    records = until(whole)
    (resolved,) = {(record["tag"], record["digest"]) for record in records if record["resolved"]}
    (fetched,) = {(record["tag"], record["digest"]) for record in records if record["fetched"]}
    assert (resolved, fetched) == (("v1", str(image.digest)), (None, str(image.digest)))
    assert {(record["principal"], record["address"]) for record in records} == {("anonymous", "127.0.0.1")}
    assert {record["tag"] for record in found("--image", f"reg.example/{repository}:v1")} == {"v1"}
    assert len(found("--digest", str(image.digest))) == len(records)
    assert all(record["contains"] for record in found("--digest", str(image.layers[0].digest)))
    text = pair.run("pulls", *asked).stdout
    assert "containerd/v1.7.27 \\udca0" in text
    nobody = pair.run("pulls", "--image", f"reg.example/{repository}:v2")
    assert (nobody.returncode, nobody.stdout.splitlines()[-1]) == (1, "0 records of 0 clients")
    assert pair.run("pulls", "--since", "yesterday").returncode == 2


def test_verify_says_what_a_pull_would_be_answered(pair: Tagstone, workers: Workers, upstream: Upstream, repository: str) -> None:
    """Exit 0 for what passes, 1 for what is refused or not there, 3 where it cannot be told; the words are those of the rule."""
    name, _, first, second = overwritten(upstream, pair, workers, repository)
    fresh = signed(upstream, repository, "fresh", "fresh")
    upstream.push(repository, "unsigned", images.image(f"{repository}/unsigned"))
    codes = {
        f"reg.example/{repository}:fresh": 0,
        name: 1,
        f"reg.example/{repository}:unsigned": 1,
        f"reg.example/{repository}:never": 1,
        f"dead.example/{repository}:v1": 3,
    }
    with ThreadPoolExecutor(2) as pool:
        passes, moved, refused, absent, dead = pool.map(lambda image: pair.json("verify", image, code=codes[image]), codes)
    assert (passes["answer"], passes["digest"], passes["pin"]) == ("serve", str(fresh.digest), None)
    assert [(check["requirement"], check["outcome"]) for check in passes["requirements"]] == [
        ("a signature by key release-key", "accepted")
    ]
    assert pair.json("pins", "show", f"reg.example/{repository}:fresh", code=1)["state"] == "unpinned"  # verify writes nothing
    assert (moved["answer"], moved["pin"]["digest"]) == ("deny", str(first.digest))
    assert moved["upstream"]["digest"] == str(second.digest)
    assert refused["answer"] == "deny"
    assert "no signature" in refused["requirements"][0]["found"]
    assert (absent["answer"], dead["answer"]) == ("absent", "unavailable")


WRONG = {
    ("pins", "show", "reg.example/acme/UPPER:v1"): "UPPER",
    ("pins", "show", f"reg.example/acme/app@sha256:{'0' * 64}"): "names no tag",
    ("pins", "approve", "reg.example/acme/app:v1", "--digest", "sha256:abc"): "sha256:abc",
    ("pins", "list", "--state", "moved"): "--state",
    ("block", "latest"): "latest",
    ("verify", "unknown.example/acme/app:v1"): "unknown.example",
    ("frobnicate",): "frobnicate",
}


def test_wrong_words_end_with_2(pair: Tagstone) -> None:
    """Whatever cannot be meant is told on standard error, names what is wrong, and has no traceback."""
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda words: pair.run(*words), WRONG))
    for done, told in zip(ended, WRONG.values(), strict=True):
        assert done.returncode == 2, done
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_sighup_takes_a_good_file_over_and_leaves_a_broken_one(
    base: Path, upstream: Upstream, keys: Path, repository: str
) -> None:
    """Every worker decides by the new rules; of a broken file the log names line and key, and the old rules stay in force."""
    config = config_of(keys, reg=upstream.registry.host)
    image = upstream.push(repository, "v1", images.image(repository))
    path = f"/v2/reg.example/{repository}/manifests/v1"
    with Tagstone(base / "reload", config, workers=2) as server, server.by_worker() as found:
        workers = list(found.values())
        everywhere(workers, path, lambda reply: reply.status == 403)

        server.configure(config.replace("{signature: {key: release-key}}", "first-use"))
        server.signal(signal.SIGHUP)
        until(lambda: server.log.count("reloaded") == 2)
        everywhere(workers, path, lambda reply: reply.digest == str(image.digest))

        server.configure(config.replace("require: first-use", "requires: first-use"))
        server.signal(signal.SIGHUP)
        until(lambda: "the old one stays in force" in server.log)
        assert "requires" in server.log
        assert f"{server.config.name}:" in server.log
        everywhere(workers, path, lambda reply: reply.digest == str(image.digest))

        server.configure(config)
        server.signal(signal.SIGHUP)
        until(lambda: server.log.count("reloaded") == 4)
        everywhere(workers, path, lambda reply: reply.status == 403)
        assert server.log.count("the old one stays in force") == 1, "once, and not by every worker"
        assert server.json("pins", "show", f"reg.example/{repository}:v1")["state"] == "revoked"


def test_the_admin_listener_tells_how_it_is(pair: Tagstone) -> None:
    """Health, readiness and metrics, for machines; nothing of an image."""
    connection = http.client.HTTPConnection("127.0.0.1", pair.admin_port, timeout=10)
    try:
        assert ask_on(connection, "GET", "/healthz").body == b"ok\n"
        ready: dict[str, Any] = json.loads(ask_on(connection, "GET", "/readyz").body)
        assert ready == {"ready": True, "trouble": {}}
        assert b"tagstone_" in ask_on(connection, "GET", "/metrics").body
        assert ask_on(connection, "GET", "/v2/").status == 404
    finally:
        connection.close()
