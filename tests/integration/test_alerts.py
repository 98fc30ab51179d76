"""Alerts from real pulls to a real sink that dies, and to Prometheus Alertmanager."""

from __future__ import annotations

import base64
import json
import re
import signal
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.integration.conftest import Upstream, config_of
from tests.integration.processes import Process, Server, Tagstone, until
from tests.simulator import images
from tests.simulator.images import Image
from tests.simulator.push import Pusher
from tests.tools import PATIENCE, free_port, need

pytestmark = pytest.mark.client

COUNT = 24
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"


class SinkProcess(Process):
    """A receiver that has on disk what it acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.file = folder / "received.jsonl"
        super().__init__("sink", (sys.executable, "-m", "tests.simulator.sink", str(self.port), str(self.file)), folder)
        self._lives = 0

    def start(self) -> SinkProcess:
        """Start it (again)."""
        self._lives += 1
        super().start()
        return self

    def ready(self) -> bool:
        """Whether it says so."""
        return self.log.count("ready\n") == self._lives

    @property
    def received(self) -> list[dict[str, Any]]:
        """What it took, over all its lives; a line that a crash cut off was not acknowledged."""
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def folder(base: Path) -> Path:
    """A folder of the test's own."""
    return Path(tempfile.mkdtemp(prefix="alerts-", dir=base))


def tags(upstream: Upstream, image: Image, names: list[str]) -> None:
    """Let these tags of ``open/alerts`` name an image."""

    async def work(pusher: Pusher) -> None:
        await pusher.push("open/alerts", image)
        for name in names:
            await pusher.tag("open/alerts", name, image)

    upstream.do(work)


def statuses(server: Tagstone, names: list[str]) -> Counter[int]:
    """What pulls of these tags are answered, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        return Counter(
            reply.status for reply in pool.map(lambda name: server.manifest("reg.example/open/alerts", name, "HEAD"), names)
        )


def metric(server: Tagstone, name: str) -> float | None:
    """The value of a metric with its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics", timeout=30) as response:
        found = re.search(rf"^{re.escape(name)} (\S+)$", response.read().decode(), re.MULTILINE)
    return None if found is None else float(found[1])


@contextmanager
def pulling(server: Tagstone, name: str, digest: str) -> Iterator[list[str]]:
    """Pull one tag over and over beside everything else; what was not answered as it should be."""
    ended, wrong = threading.Event(), []

    def pull() -> None:
        while not ended.wait(0.02):  # others want the processors, too
            try:
                reply = server.manifest("reg.example/open/alerts", name)
            except OSError as error:
                wrong.append(repr(error))
            else:
                if (reply.status, reply.digest) != (200, digest):
                    wrong.append(f"{reply.status} {reply.body[:200]!r}")

    thread = threading.Thread(target=pull)
    thread.start()
    try:
        yield wrong
    finally:
        ended.set()
        thread.join()


def test_promise_58_a_sink_killed_in_mid_delivery_misses_nothing(upstream: Upstream, keys: Path, folder: Path) -> None:
    """Many overwrites, two workers, the sink killed twice and restarted: every event arrived, once by its id; pulls went on."""
    before, after = images.image("alerts-before"), images.image("alerts-after")
    names = [f"kill-{number:03}" for number in range(COUNT)]
    tags(upstream, before, [*names, "steady"])
    sink = SinkProcess(folder)
    (folder / "secret").write_text(SECRET)
    hook = f"{{url: 'http://127.0.0.1:{sink.port}/', secret_file: {folder}/secret}}"
    alerts = f"alerts: {{sinks: {{soc: {{cloudevents: {hook}, types: [tag.overwritten]}}}}}}\n"
    with Tagstone(folder / "ts", alerts + config_of(keys, reg=upstream.registry.host), workers=2) as server, sink:
        assert statuses(server, [*names, "steady"]) == {200: COUNT + 1}
        tags(upstream, after, names)
        with pulling(server, "steady", str(before.digest)) as wrong, ThreadPoolExecutor(1) as pool:
            refused = pool.submit(statuses, server, names)
            for reached in (COUNT // 4, COUNT // 2):
                until(lambda reached=reached: len(sink.received) >= reached)  # type: ignore[misc]  # of this round
                sink.signal(signal.SIGKILL)
                sink.wait()
                until(lambda: (metric(server, 'tagstone_alerts_sink_failures{sink="soc"}') or 0) > 0)
                sink.start()
            assert refused.result() == {403: COUNT}
            until(lambda: metric(server, 'tagstone_alerts_delivered_total{sink="soc"}') == COUNT)
        assert wrong == []
        assert metric(server, 'tagstone_alerts_waiting{sink="soc"}') == 0
        (status,) = server.json("alerts", "deliveries")["sinks"]
        assert (status["waiting"], status["failed"], status["failures_in_a_row"]) == (0, 0, 0)
    by_id = {line["headers"]["webhook-id"]: line for line in sink.received}
    assert len(by_id) == COUNT
    events = [json.loads(line["body"]) for line in by_id.values()]
    assert sorted(event["subject"] for event in events) == [f"reg.example/open/alerts:{name}" for name in names]
    assert {event["data"]["digest"] for event in events} == {str(after.digest)}
    for line in sink.received:
        sent, body = line["headers"], line["body"]
        at = datetime.fromtimestamp(int(sent["webhook-timestamp"]), UTC)
        assert Webhook(SECRET).sign(sent["webhook-id"], at, body) == sent["webhook-signature"]
        assert json.loads(body)["id"] == sent["webhook-id"]


# -- Alertmanager -------------------------------------------------------------------------------------------------------


class Alertmanager(Server):
    """Debian's ``prometheus-alertmanager``, alone, which tells a webhook of what it would tell people."""

    def __init__(self, folder: Path, webhook: str) -> None:
        port = free_port()
        command = (
            need("prometheus-alertmanager"),
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            f"--storage.path={folder}/alertmanager",
            f"--config.file={folder}/alertmanager.yml",
        )
        super().__init__("alertmanager", command, folder, port)
        (folder / "alertmanager.yml").write_text(
            "route: {receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\n"
            f"receivers: [{{name: hook, webhook_configs: [{{url: '{webhook}', send_resolved: true}}]}}]\n"
        )

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.ask("GET", "/-/ready").status == 200
        except OSError:
            return False

    def alerts(self) -> list[dict[str, Any]]:
        """What is firing."""
        found: list[dict[str, Any]] = json.loads(self.ask("GET", "/api/v2/alerts", Accept="application/json").body)
        return found


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address for a webhook, and the alerts that it was told of."""
    seen: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name in the standard library)
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_alertmanager_is_told_of_an_overwrite_and_of_its_end(
    upstream: Upstream, keys: Path, folder: Path, told: tuple[str, list[dict[str, Any]]]
) -> None:
    """It fires while the tag is overwritten, is sent again while it lasts, and is resolved when the upstream is back."""
    before, after = images.image("alertmanager-before"), images.image("alertmanager-after")
    tags(upstream, before, ["am"])
    webhook, seen = told
    with Alertmanager(folder, webhook) as alertmanager:
        sink = f"{{alertmanager: {{url: 'http://{alertmanager.host}', resend: 1s, labels: {{team: platform}}}}}}"
        alerts = f"alerts: {{source: 'https://tagstone.example', sinks: {{oncall: {sink}}}}}\n"
        with Tagstone(folder / "ts", alerts + config_of(keys, reg=upstream.registry.host)) as server:
            tried = server.json("alerts", "test")["sinks"]
            assert [each["result"] for each in tried] == ["taken"]
            assert statuses(server, ["am"]) == {200: 1}
            tags(upstream, after, ["am"])
            assert statuses(server, ["am"]) == {403: 1}

            def about() -> list[dict[str, Any]]:
                return [alert for alert in alertmanager.alerts() if alert["labels"]["type"] == "tag.overwritten"]

            def settled() -> list[dict[str, Any]]:
                # Whatever was told before it was known what changed was of another severity, and ends by itself.
                alerts = about()
                return alerts if len(alerts) == 1 and "settled: true" in alerts[0]["annotations"]["description"] else []

            (alert,) = until(settled)
            assert alert["labels"]["alertname"] == "TagstoneTagOverwritten"
            assert alert["labels"]["repository"] == "reg.example/open/alerts"
            assert alert["labels"]["tag"] == "am"
            assert alert["labels"]["team"] == "platform"
            assert alert["labels"]["digest"] == str(after.digest)
            assert alert["generatorURL"] == "https://tagstone.example"
            ends = alert["endsAt"]
            until(lambda: [each for each in about() if each["endsAt"] > ends])  # it is sent again

            def states() -> set[str]:
                return {each["status"] for each in seen if each["labels"]["type"] == "tag.overwritten"}

            until(lambda: "firing" in states())
            tags(upstream, before, ["am"])
            assert statuses(server, ["am"]) == {200: 1}
            until(lambda: "resolved" in states())
            until(lambda: not about())
            until(lambda: any(each["labels"]["type"] == "tag.reverted" for each in seen))  # an act, told too
            assert metric(server, 'tagstone_alerts_failed_total{sink="oncall"}') == 0


def test_the_route_of_the_documentation_is_one_that_alertmanager_takes(folder: Path) -> None:
    """As amtool says."""
    amtool = need("amtool")
    route = next(text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if text.startswith("route:"))
    (folder / "route.yml").write_text(route)
    done = run((amtool, "check-config", str(folder / "route.yml")), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
