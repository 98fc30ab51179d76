"""What the canary concludes from what a client says: one kind of client, one behaviour, one verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from proxy.clients.canary import Canary, Driver, Outcome, Report, Tells, Verdict, asked, clean
from proxy.clients.traps.node import Expected, Target
from proxy.policy import canary

PROXY = Target("http", "proxy:5000", "")
EXPECTED = Expected((PROXY,), ("reg.example",))


@dataclass
class Client:
    """A client that falls back or does not, and says of it what its kind says."""

    tells: Tells
    falls_back: bool = False
    upstream: str | None = "denied: nobody knows you"  #: what the upstream's error is; None: it has the image
    asks_proxy: bool = True
    runs: bool = True
    daemon: bool = True
    images: set[str] = field(default_factory=set)
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def driver(self) -> Driver:
        """How it is driven."""
        daemon = ("x", "version")
        return Driver("x", self.tells, ("x", "pull"), ("x", "held"), ("x", "remove"), {}, ("x", "after"), daemon=daemon)

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> Outcome | None:
        """Run one of its commands."""
        self.ran.append(tuple(command))
        match command:
            case ("x", "version"):
                return Outcome(self.daemon, "" if self.daemon else "cannot connect to the daemon")
            case ("x", "pull", name):
                return self._pull(name) if self.runs else None
            case ("x", "held", name):
                return Outcome(name in self.images, "")
            case ("x", "remove", name):
                self.images.discard(name)
        return Outcome(True, "")

    def _pull(self, name: str) -> Outcome:
        tag = name.rpartition(":")[2]
        errors, trace = [], []
        if self.asks_proxy:
            trace.append(f'DEBU[0000] do request url="http://proxy:5000/v2/x/manifests/{tag}?ns=reg.example"')
            absent = tag.startswith(canary.ABSENT)
            errors.append("x: not found" if absent else f"403 Forbidden: {canary.refusal(tag)}")
        if self.falls_back:
            trace.append(f'DEBU[0000] do request url="https://reg.example/v2/x/manifests/{tag}"')
            if self.upstream is None:
                self.images.add(name)
                return Outcome(True, "done")
            errors.append(self.upstream)
        # Containerd: the first that is not a 404; docker: the last.
        first = next((error for error in errors if "not found" not in error), errors[0] if errors else "nothing")
        said = {Tells.TRACE: first, Tells.FIRST: first, Tells.LAST: errors[-1] if errors else "nothing"}[self.tells]
        return Outcome(False, "\n".join([*(trace if self.tells is Tells.TRACE else ()), said]))


def refuses(reference: str, token: str) -> str | None:
    """A proxy that is well."""
    return None


def verdicts(client: Client, baits: Sequence[str] = (), answer: Callable[[str, str], str | None] = refuses) -> list[Report]:
    """What the canary says of it."""
    return Canary(EXPECTED, client, answer).try_out(client.driver(), EXPECTED.registries, baits)


ABSENT_UPSTREAM = "reg.example/x: not found"
TABLE = (
    ("trace-closed", Client(Tells.TRACE), [Verdict.CLOSED]),
    ("trace-open", Client(Tells.TRACE, falls_back=True), [Verdict.OPEN]),
    ("trace-open-although-the-upstream-says-404", Client(Tells.TRACE, falls_back=True, upstream=ABSENT_UPSTREAM), [Verdict.OPEN]),
    ("trace-around", Client(Tells.TRACE, falls_back=True, asks_proxy=False), [Verdict.OPEN]),
    ("trace-nothing", Client(Tells.TRACE, asks_proxy=False), [Verdict.UNKNOWN]),
    ("last-closed", Client(Tells.LAST), [Verdict.CLOSED, Verdict.CLOSED]),
    ("last-open", Client(Tells.LAST, falls_back=True), [Verdict.OPEN, Verdict.OPEN]),
    ("first-closed", Client(Tells.FIRST), [Verdict.REFUSED]),
    ("first-open", Client(Tells.FIRST, falls_back=True), [Verdict.OPEN]),
    ("first-around", Client(Tells.FIRST, falls_back=True, asks_proxy=False), [Verdict.OPEN]),
    ("first-unseen", Client(Tells.FIRST, falls_back=True, upstream=ABSENT_UPSTREAM), [Verdict.REFUSED]),
    ("given", Client(Tells.FIRST, falls_back=True, upstream=None), [Verdict.OPEN]),
    ("does-not-run", Client(Tells.TRACE, runs=False), [Verdict.UNKNOWN]),
)


@pytest.mark.parametrize(("client", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_a_client_does_is_what_is_told(client: Client, expected: list[Verdict]) -> None:
    """As far as it can be known; nothing stays with the client, and what is to run at the end runs."""
    reports = verdicts(client)
    assert [report.verdict for report in reports] == expected, reports
    assert not client.images
    assert client.ran[-1] == ("x", "after")
    assert all(report.why for report in reports)


BAIT = "reg.example/acme/tagstone-canary:bait"


@pytest.mark.parametrize("tells", Tells)
@pytest.mark.parametrize("falls_back", [True, False])
def test_a_bait_needs_no_inference(tells: Tells, falls_back: bool) -> None:
    """Whoever has what exists upstream alone went around, whatever it tells."""
    client = Client(tells, falls_back=falls_back, upstream=None)
    reports = verdicts(client, [BAIT])
    assert reports[-1].reference == BAIT
    assert reports[-1].verdict is (Verdict.OPEN if falls_back else Verdict.CLOSED)
    assert not client.images


def test_a_bait_whose_upstream_was_asked_is_open_even_if_it_did_not_come() -> None:
    """The trace tells, although the upstream did not give it."""
    assert verdicts(Client(Tells.TRACE, falls_back=True), [BAIT])[-1].verdict is Verdict.OPEN
    assert verdicts(Client(Tells.TRACE, asks_proxy=False), [BAIT])[-1].verdict is Verdict.UNKNOWN
    assert verdicts(Client(Tells.TRACE, runs=False), [BAIT])[-1].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("tells", Tells)
def test_a_client_without_its_daemon_says_nothing(tells: Tells) -> None:
    """Neither that it went around nor, where it has no bait, that it did not; nothing is pulled."""
    client = Client(tells, daemon=False)
    reports = verdicts(client, [BAIT])
    assert [report.verdict for report in reports] == [Verdict.UNKNOWN] * 2
    assert {report.said for report in reports} == {"cannot connect to the daemon"}
    assert client.ran == [("x", "version")]


def test_an_image_that_was_there_before_is_left_alone() -> None:
    """It proves nothing, and it is not ours to remove."""
    client = Client(Tells.TRACE, images={BAIT})
    assert verdicts(client, [BAIT])[-1].verdict is Verdict.UNKNOWN
    assert client.images == {BAIT}


def test_without_the_proxys_refusal_nothing_is_pulled() -> None:
    """A URL that is not the proxy's must not look like a client that goes around."""
    client = Client(Tells.TRACE, falls_back=True)
    reports = verdicts(client, [BAIT], lambda reference, token: "nobody is there")
    assert [report.verdict for report in reports] == [Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert not any(command[1] == "pull" for command in client.ran)


def test_tags_are_new_each_time() -> None:
    """A remembered answer could otherwise stand for this one; tokens are no part of their tags."""
    client = Client(Tells.TRACE)
    verdicts(client)
    verdicts(client)
    tags = [command[2].rpartition(":")[2] for command in client.ran if command[1] == "pull"]
    assert len(set(tags)) == 2
    for tag in tags:
        assert re.fullmatch(r"[0-9a-f]{20}", tag)
        assert tag not in canary.token(tag)


def test_traces_of_both_libraries_are_read() -> None:
    """As ctr 1.6 and podman 4.3 print them, once each, in order."""
    output = (
        'DEBU[0000] do request  host="p:5000" request.method=HEAD url="http://p:5000/v2/x/manifests/1?ns=a"\n'
        'time="x" level=debug msg="do request" url="https://reg.example/v2/x"\n'
        'time="2026" level=debug msg="GET https://b.example:443/v2/"\n'
        'time="2026" level=debug msg="Ping http://c.example/v2/ err <nil> (&http.Response{})"\n'
        'time="2026" level=debug msg="Looking for TLS certificates in d.example"\n'
    )
    assert asked(output) == ("p:5000", "reg.example", "b.example", "c.example")


def test_output_is_text_without_colours_and_without_end() -> None:
    """What a client prints is bounded, and shown as it is meant."""
    assert clean(b"\x1b[31mno\x1b[0m \xff") == "no �"
    assert len(clean(b"x" * (2 << 20))) == 1 << 20
    assert Outcome(False, "").last_line == "it said nothing"
    assert Outcome(False, "Error: a\nDEBU[1] b\nlevel=debug c\n").last_line == "Error: a"
