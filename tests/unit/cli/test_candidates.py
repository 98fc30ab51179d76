"""``tagstone pins show`` and ``list``: how far a candidate has come, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from proxy.policy.rotation import question_of
from storage.database import Database
from storage.pins import PinStore
from storage.records import Approval, Judgement, Pin, PinAction, PinChange, PinState, PinWrite, Standing
from storage.reference import Repository
from tests.unit.configuration.files import Folder
from tests.unit.storage.values import digest

D, E = digest("one"), digest("two")
APP = Repository.of("ghcr.io", "acme/app")
NOW = datetime.now(UTC).replace(microsecond=0)
SEEN = NOW - timedelta(hours=2)
TWO_PEOPLE = (
    "on_overwrite: rotate, cooldown: 72h, approvers: 2, window: {days: [mon], from: 22:00, to: 04:00, timezone: Europe/Berlin}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A configuration whose tags rotate, each in its way."""
    made = Folder(tmp_path)
    tags = f"[{{match: latest, {TWO_PEOPLE}}}, {{match: plain, on_overwrite: rotate}}]"
    made.write(
        f"data_dir: {tmp_path}/data\nupstreams: {{ghcr.io: {{}}}}\ntrust: {{keys: {{acme: {{file: one.pub}}}}}}\n"
        f"rules: [{{match: ghcr.io/acme/**, require: {{signature: {{key: acme}}}}, tags: {tags}}}]\n"
    )
    return made


def judged(folder: Folder, standing: Standing, tag: str) -> Judgement:
    """What came out under the rule of the file."""
    (rule,) = folder.load(folder.file.read_text()).rules
    return Judgement(standing, ("a signature by key acme",), SEEN, question_of(rule, rule.tag_rule(tag)))


def pin(tag: str, **fields: object) -> Pin:
    """A pin with a candidate."""
    whole = Pin(
        APP, tag, D, PinState.OVERWRITTEN, SEEN, "rule", "why", SEEN, E, SEEN, version=1, signers=("key acme 0123456789abcdef",)
    )
    return replace(whole, **fields)  # type: ignore[arg-type]  # the fields of a pin


def keep(folder: Folder, *found: Pin) -> None:
    """Put pins into the data directory."""

    async def work(pins: Sequence[Pin]) -> None:
        data = folder.path / "data"
        data.mkdir(exist_ok=True)
        database = Database(data / "tagstone.db")
        await database.open()
        try:
            for each in pins:
                change = PinChange(APP, each.tag, PinAction.PINNED, SEEN, "rule", "why", None, D)
                await PinStore(database).apply(PinWrite(None, each, change))
        finally:
            await database.close()

    asyncio.run(work(found))


def pins(folder: Folder, *words: str) -> Result:
    """Run ``tagstone pins``."""
    result = CliRunner().invoke(app, ["pins", words[0], "--config", str(folder.file), *words[1:]])
    assert result.exit_code == 0, result.output
    return result


def test_a_candidate_that_rotates_is_shown_with_all_that_it_waits_for(folder: Folder) -> None:
    """Verdict, cooldown, window, who approved and how many are missing."""
    yes = (Approval(E, "ann", "fine", SEEN), Approval(E, "ANN", "again", NOW))
    keep(folder, pin("latest", judgement=judged(folder, Standing.PASSES, "latest"), approvals=yes, stale_at=NOW))
    text = pins(folder, "show", "ghcr.io/acme/app:latest").stdout
    until = (SEEN + timedelta(hours=72)).isoformat().replace("+00:00", "Z")
    assert "signed by   key acme (0123456789ab…)" in text
    assert f"judged      passes, since {SEEN.isoformat().replace('+00:00', 'Z')}: a signature by key acme" in text
    assert f"cooldown    until {until}" in text
    assert "and needs 1 more approval" in text
    assert "window      mon 22:00–04:00 Europe/Berlin; next at " in text
    assert "approved    by ann (" in text
    assert "; 1 of 2" in text
    assert "stale       since " in text
    shown = json.loads(pins(folder, "show", "ghcr.io/acme/app:latest", "--json").stdout)
    waiting = shown["waiting"]
    assert shown["signers"] == ["key acme 0123456789abcdef"]
    assert (waiting["digest"], waiting["verdict"], waiting["waits_for"]) == (str(E), "passes", "cooldown")
    assert (waiting["cooldown_until"], waiting["approvals_needed"]) == (until, 2)
    assert [each["by"] for each in waiting["approvals"]] == ["ann"]
    assert waiting["window"] == "mon 22:00–04:00 Europe/Berlin"
    opens = datetime.fromisoformat(waiting["rotates_from"])
    assert opens >= SEEN + timedelta(hours=72)
    assert waiting["on_overwrite"] == "rotate"


@pytest.mark.parametrize(
    ("standing", "text", "verdict"),
    [
        (Standing.PASSES, "passes, since ", "passes"),
        (Standing.FAILS, "does not pass, since ", "fails"),
        (Standing.OTHER_SIGNER, "passes, by another signer, since ", "other-signer"),
        (None, "unknown, since it was first seen at ", "unknown"),
    ],
)
@pytest.mark.parametrize("tag", ["refused", "plain"])
def test_what_came_out_is_shown_under_every_rule(
    folder: Folder, tag: str, standing: Standing | None, text: str, verdict: str
) -> None:
    """Also where only people move the pin; what answers another question is unknown."""
    judgement = None if standing is None else judged(folder, standing, tag)
    keep(folder, pin(tag, judgement=judgement))
    shown = pins(folder, "show", f"ghcr.io/acme/app:{tag}").stdout
    assert f"judged      {text}" in shown
    way = "(when it passes: an approval does not stand for that) " if standing is Standing.FAILS else ""
    assert f"accept it   {way}tagstone pins approve ghcr.io/acme/app:{tag} --digest {E}" in shown
    waiting = json.loads(pins(folder, "show", f"ghcr.io/acme/app:{tag}", "--json").stdout)["waiting"]
    assert waiting["verdict"] == verdict
    assert (waiting["judged_at"] is None) is (standing is None)
    (line,) = (line for line in pins(folder, "list").stdout.splitlines() if line.startswith("ghcr.io"))
    assert f"upstream: {E} ({verdict}" in line


def test_the_listing_says_in_short_what_is_waited_for(folder: Folder) -> None:
    """One line for each pin; as JSON all of it."""
    resting = pin("v1", state=PinState.PINNED, candidate=None, candidate_seen_at=None)
    keep(folder, pin("latest", judgement=judged(folder, Standing.PASSES, "latest")), pin("plain", rejected=E), resting)
    latest, plain, v1, count = pins(folder, "list").stdout.splitlines()
    assert "(passes, cooldown, until " in latest
    assert latest.endswith("0 of 2 approvals)")
    assert plain.endswith("(unknown, rejected)")
    assert v1.endswith(str(D))
    assert count == "3 pins"
    listed = json.loads(pins(folder, "list", "--json").stdout)["pins"]
    assert [None if each["waiting"] is None else each["waiting"]["waits_for"] for each in listed] == [
        "cooldown",
        "rejected",
        None,
    ]


def test_a_pin_from_before_signers_were_kept_says_nothing_of_them(folder: Folder) -> None:
    """Rather than that there were none."""
    keep(folder, pin("plain", signers=None))
    assert "signed by" not in pins(folder, "show", "ghcr.io/acme/app:plain").stdout
