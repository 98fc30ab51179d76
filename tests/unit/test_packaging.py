"""The packaging keeps its promises: locks, wheel, Makefile, container files, documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import proxy
from proxy.settings import Admin
from tests.tools import need

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-extras.lock", "requirements-dev.lock")
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(?: ; .*)? \\$", re.MULTILINE)


def pins(lock: str) -> dict[str, set[str]]:
    """Canonical name → versions of everything that a lock file pins; more than one where Pythons or machines differ."""
    found: dict[str, set[str]] = {}
    for name, version in _PIN.findall((ROOT / lock).read_text()):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def group(name: str) -> Iterator[Requirement]:
    """The requirements of a dependency group, those that it includes, too."""
    for entry in PYPROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from group(entry["include-group"])


def tracked_files() -> list[Path]:
    """Every file of the project that belongs to it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = (need("git"), "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


# -- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", [*map(Requirement, PYPROJECT["project"]["dependencies"]), *group("build")]),
        ("requirements.lock", list(map(Requirement, PYPROJECT["build-system"]["requires"]))),
        (
            "requirements-extras.lock",
            [Requirement(each) for extra in PYPROJECT["project"]["optional-dependencies"].values() for each in extra],
        ),
        ("requirements-dev.lock", list(group("dev"))),
    ],
    ids=["runtime", "build backend", "extras", "development"],
)
def test_locks_cover_pyproject(lock: str, wanted: list[Requirement]) -> None:
    """Everything that pyproject names is pinned, in a version that it allows."""
    pinned = pins(lock)
    unmet = [str(each) for each in wanted if not any(map(each.specifier.contains, pinned.get(canonicalize_name(each.name), ())))]
    assert wanted
    assert unmet == []


@pytest.mark.parametrize("other", ["requirements-dev.lock", "requirements-extras.lock"])
def test_the_other_locks_agree_with_the_runtime_lock(other: str) -> None:
    """The tests, and whoever wants extras, run with the very versions that are installed for `make serve`."""
    found = pins(other)
    assert {name: found.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_whole_and_name_no_place(lock: str) -> None:
    """Every entry has hashes, and nothing says where packages come from."""
    text = (ROOT / lock).read_text()
    entries = [block for block in re.split(r"\n(?=[a-z0-9])", text) if not block.startswith("#")]
    assert len(entries) == len(_PIN.findall(text)) > 20
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert not re.search(r"https?:|index-url|find-links|trusted-host", text)


def test_no_package_registry_is_named() -> None:
    """Installing goes where the machine's own configuration points: no file names a registry's host."""
    hosts = [
        ".".join(words)
        for words in (
            *(("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io")),
            *(("proxy", "golang", "org"), ("deb", "debian", "org"), ("repo", "maven")),
        )
    ]
    found = [
        f"{path.relative_to(ROOT)}: {host}" for path in tracked_files() for host in hosts if host.encode() in path.read_bytes()
    ]
    assert found == []


# -- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as the build backend makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("tagstone-*.whl")))


def test_wheel_holds_what_runs(wheel: zipfile.ZipFile) -> None:
    """Code, migrations, shipped configuration and type markers are inside; tests are not."""
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"proxy", "storage", "config", f"tagstone-{PYPROJECT['project']['version']}.dist-info"}
    assert {
        "config/tagstone.yaml",
        "config/signers.yaml",
        "config/clients/hosts.toml",
        "proxy/py.typed",
        "storage/py.typed",
    } <= set(names)
    migrations = [name for name in names if re.fullmatch(r"storage/migrations/versions/\w+\.py", name)]
    assert len([name for name in migrations if not name.endswith("__init__.py")]) >= 1
    assert not [name for name in names if "__pycache__" in name]


def test_wheel_names_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    """`tagstone` is a console script, and the licence text comes along."""
    folder = f"tagstone-{PYPROJECT['project']['version']}.dist-info"
    assert "tagstone = proxy.cli.main:run" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "License-Expression: Apache-2.0" in wheel.read(f"{folder}/METADATA").decode()


def test_version_is_told_once() -> None:
    """The package says the version that the distribution has."""
    assert proxy.__version__ == PYPROJECT["project"]["version"]


# -- make and continuous integration --------------------------------------------------------------------------------


def make(*arguments: str) -> str:
    """What make prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    done = subprocess.run(
        (need("make"), "-C", str(ROOT), "--no-print-directory", *arguments),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout


def test_make_alone_lists_every_target() -> None:
    """`make` is `make help`, and help knows every target that a person may ask for."""
    listed = re.findall(r"^  make (\w+) +\S", make(), re.MULTILINE)
    assert listed == ["help", "serve", "test", "coverage", "lint", "format", "fuzz", "bench", "lock", "clean"]
    assert make("help") == make()


@pytest.mark.parametrize("target", ["serve", "test"])
def test_make_installs_by_hash_in_a_fresh_tree(target: str) -> None:
    """In a tree without an environment, everything comes from the locks, with hashes; the project itself without isolation."""
    planned = make("--dry-run", target, "VENV=nowhere", "PYTHON=python3")
    assert '.ci/venv "python3" nowhere' in planned
    assert "install --require-hashes --requirement requirements.lock" in planned
    assert "install --no-deps --no-build-isolation --editable ." in planned
    assert ("requirements-dev.lock" in planned) == (target == "test")


def test_make_serve_starts_tagstone_with_its_state_in_the_tree() -> None:
    """The one command that people type first."""
    planned = make("--dry-run", "serve", "VENV=nowhere")
    assert "nowhere/bin/tagstone serve --config config/tagstone.yaml --data-dir data" in planned


@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda path: path.name)
def test_ci_scripts_stop_at_the_first_failure(script: Path) -> None:
    """Each is executable bash that parses, and ends with an error as soon as something fails."""
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    subprocess.run((need("bash"), "-n", str(script)), check=True)


def test_ci_run_is_make_test() -> None:
    """Continuous integration and a person run the same thing, and its exit status is make's."""
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")


# -- container ------------------------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: (word, arguments)."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(word, " ".join(arguments.split())) for word, arguments in pairs]


def final_stage() -> dict[str, str]:
    """The last value of each instruction after the last FROM."""
    instructions = dockerfile()
    last = max(number for number, (word, _) in enumerate(instructions) if word == "FROM")
    return dict(instructions[last:])


def test_image_is_built_in_stages_from_hashes() -> None:
    """Two stages on the same named base; dependencies only by hash; pip does not come along."""
    bases = [arguments.split()[0] for word, arguments in dockerfile() if word == "FROM"]
    assert bases == ["python:3.11-slim-bookworm"] * 2
    installs = [line for word, line in dockerfile() if word == "RUN" and "pip install" in line]
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation ." in line for line in installs)
    assert "pip uninstall --yes pip" in installs[-1]


def test_image_runs_without_privileges() -> None:
    """A numeric user that is not root (Kubernetes checks it), state in a volume, nothing written elsewhere."""
    stage = final_stage()
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", stage["USER"])
    assert stage["VOLUME"] == "/data"
    assert "PYTHONDONTWRITEBYTECODE=1" in stage["ENV"]
    assert json.loads(stage["ENTRYPOINT"]) == ["tagstone"]
    command = json.loads(stage["CMD"])
    assert command[0] == "serve"
    assert command[command.index("--data-dir") + 1] == "/data"


def test_image_says_how_it_is_and_how_it_ends() -> None:
    """The health check asks the admin listener's default address; SIGTERM drains."""
    stage = final_stage()
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert f"http://{Admin().listen}/healthz" in stage["HEALTHCHECK"]
    check = json.loads(stage["HEALTHCHECK"].partition(" CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "healthcheck", "exec")


def test_everything_that_the_image_copies_is_there() -> None:
    """Each source exists and is let through by .dockerignore, which lets nothing else through."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for word, arguments in dockerfile()
        if word == "COPY" and not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    assert copied == allowed
    assert "*" in ignored


def test_compose_keeps_the_proxy_confined() -> None:
    """Read-only, no capabilities, no new privileges, state in a volume, reachable from this machine only."""
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = compose["services"]["proxy"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert any(volume.startswith("data:/data") for volume in service["volumes"])
    assert "data" in compose["volumes"]
    assert not {"privileged", "network_mode", "user", "cap_add"} & set(service)


# -- documents ------------------------------------------------------------------------------------------------------


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link in a Markdown file names a file of this tree."""
    broken = [
        f"{path.relative_to(ROOT)} → {target}"
        for path in tracked_files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def test_decisions_are_listed() -> None:
    """The index of the decisions names each of them."""
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    files = [path.name for path in sorted(folder.glob("0*.md"))]
    assert re.findall(r"\((0\d{3}-[a-z0-9-]+\.md)\)", index) == files


def test_licence_is_apache() -> None:
    """The licence is the one that the metadata names."""
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text[:200]
    assert "Version 2.0, January 2004" in text[:200]
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_changelog_tells_of_what_is_coming() -> None:
    """Keep a Changelog: an Unreleased section with something in it."""
    unreleased = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]")[2]
    assert "### Added" in unreleased
