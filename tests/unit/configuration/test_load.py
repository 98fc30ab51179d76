"""Finding the file, and what comes of one that checks out."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import config
from proxy import configuration
from proxy.configuration import find, load
from proxy.errors import ConfigurationError, Problem
from proxy.policy.rules import AnyOf, FirstUse, Never, SignatureBy
from proxy.schema import Address
from tests.simulator.notation import issue
from tests.tools import PATIENCE
from tests.unit.configuration.files import RULES, UPSTREAM, Folder

SHIPPED = Path(config.__file__).parent / "tagstone.yaml"

#: The number sign before a line of YAML, as opposed to one before a sentence.
_COMMENTED = re.compile(r"(?<=  )# (?=\s*(?:- )?[a-z0-9_.-]+:(?: |$)|\s+- )", re.MULTILINE)

#: The keys that scripts and people rely on, as they write them.
CONTRACT = """
listen: 127.0.0.1:41001
admin: {{listen: 127.0.0.1:41002}}
data_dir: {work}/data
check_interval: 0s
upstreams:
  reg.example: {{url: http://127.0.0.1:41003, allow_private: true}}
  "127.0.0.1:41004": {{url: "http://127.0.0.1:41004", allow_private: true}}
trust:
  keys:
    release-key: {{file: {work}/one.pub}}
rules:
  - match: reg.example/acme/**
    require: {{signature: {{key: release-key}}}}
    tags:
      - {{match: "stay-*", on_overwrite: serve-pinned}}
      - {{match: "*", on_overwrite: refuse}}
  - match: reg.example/any/**
    require: {{any: [{{signature: {{key: release-key}}}}]}}
  - match: reg.example/base/**
    require: first-use
  - match: "**"
    require: deny
"""


def test_a_whole_file_becomes_a_configuration(folder: Folder) -> None:
    """Every part, ready to be used: nothing is parsed again later."""
    loaded = folder.load(CONTRACT.format(work=folder.path))
    assert loaded.path == folder.file
    assert loaded.listen == Address("127.0.0.1", 41001)
    assert loaded.admin_listen == Address("127.0.0.1", 41002)
    assert loaded.settings.data_dir == folder.path / "data"
    assert loaded.settings.check_interval == 0.0
    assert loaded.upstreams["127.0.0.1:41004"].url == "http://127.0.0.1:41004"
    assert [rule.pattern.text for rule in loaded.rules] == [
        "reg.example/acme/**",
        "reg.example/any/**",
        "reg.example/base/**",
        "**",
    ]
    assert [rule.require for rule in loaded.rules] == [
        SignatureBy("release-key"),
        AnyOf((SignatureBy("release-key"),)),
        FirstUse(),
        Never(),
    ]
    assert loaded.rule_lines == (13, 18, 20, 22)
    assert loaded.warnings == ()


def test_nothing_in_a_configuration_can_be_changed(folder: Folder) -> None:
    """A reload swaps the whole value; whoever holds the old one keeps the old one."""
    loaded = folder.load(UPSTREAM + RULES)
    with pytest.raises(AttributeError):
        loaded.default_registry = "x"  # type: ignore[misc]  # that it cannot be set is what is shown
    with pytest.raises(TypeError):
        loaded.upstreams["x"] = loaded.upstreams["docker.io"]  # type: ignore[index]  # as above


def test_the_shipped_default_checks_out_without_a_word() -> None:
    """It is what a new person starts with."""
    loaded = load(SHIPPED)
    assert loaded.warnings == ()
    assert loaded.listen.loopback
    assert {rule.require for rule in loaded.rules} == {FirstUse(), Never()}
    assert str(loaded.settings.data_dir) == "/var/lib/tagstone"


def test_what_the_shipped_default_keeps_in_comments_checks_out_too(folder: Folder) -> None:
    """A person who takes the number signs away gets a file that works (where the files that it names are)."""
    import trustme

    trustme.CA().cert_pem.write_to_path(folder.path / "corp-ca.pem")
    for name in ("acme", "acme-2025"):
        (folder.path / f"{name}.pub").write_bytes((folder.path / "one.pub").read_bytes())
    live = _COMMENTED.sub("", SHIPPED.read_text(encoding="utf-8"))
    loaded = folder.load(live)
    assert set(loaded.trusted.keys) == {"acme-release", "acme-2025"}
    assert {"registry.corp.example", "local.example"} < set(loaded.upstreams)
    assert "ghcr.io/acme/**" in {rule.pattern.text for rule in loaded.rules}


ASKS_NOBODY = (
    "can be reached from elsewhere, and asks nobody who they are: "
    "write 127.0.0.1:{port}, or add `tokens`, or `tls` with `client_ca`"
)


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        (
            "0.0.0.0:5001",
            ASKS_NOBODY.format(port=5001),
        ),
        (
            "'[::]:9'",
            ASKS_NOBODY.format(port=9),
        ),
        (
            "metrics.example:9",
            ASKS_NOBODY.format(port=9),
        ),
        ("'9'", "names no host: write 127.0.0.1:9 for this machine alone, 0.0.0.0:9 for everyone"),
    ],
)
def test_promise_40_the_admin_listener_is_on_loopback(folder: Folder, listen: str, told: str) -> None:
    """Health and metrics are for this machine alone, or for those who show who they are."""
    assert folder.errors(f"admin: {{listen: {listen}}}\n{UPSTREAM}{RULES}") == [f"1: admin.listen: {told}"]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:5001", "'[::1]:5001'", "127.1.2.3:1"])
def test_the_admin_listener_may_be_any_loopback_address(folder: Folder, listen: str) -> None:
    """By name or address, of either family."""
    assert folder.load(f"admin: {{listen: {listen}}}\n{UPSTREAM}{RULES}").admin_listen.loopback


def test_paths_start_from_the_folder_of_the_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever the command is run, and however the file is named."""
    folder.write(f"data_dir: data\ntrust: {{keys: {{a: {{file: one.pub}}}}}}\n{UPSTREAM}{RULES}")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load(folder.file).settings.data_dir == folder.path / "data"
    monkeypatch.chdir(folder.path)
    loaded = load(Path("tagstone.yaml"))
    assert loaded.settings.data_dir == folder.path / "data"
    assert loaded.settings.trust.keys["a"].file == folder.path / "one.pub"


def test_yaml_traps_do_what_a_person_expects(folder: Folder) -> None:
    """Words, numbers and times that YAML 1.1 would turn into something else; dates that become days."""
    loaded = folder.load(f"""\
        upstreams:
          docker.io: {{allow_private: no}}
          a.example: {{auth: {{username: on, password: 0123}}}}
          b.example: {{auth: {{username: 2025-01-01, password: 1:30}}, retries: 08}}
        trust: {{keys: {{no: {{file: one.pub, valid_until: 2027-06-30}}}}}}
        {RULES}""")
    assert loaded.upstreams["docker.io"].allow_private is False
    assert (loaded.upstreams["a.example"].auth.username, loaded.upstreams["a.example"].auth.password) == ("on", "0123")
    assert (loaded.upstreams["b.example"].auth.username, loaded.upstreams["b.example"].auth.password) == ("2025-01-01", "1:30")
    assert loaded.upstreams["b.example"].retries == 8
    assert loaded.trusted.keys["no"].valid_until is not None
    assert loaded.trusted.keys["no"].valid_until.isoformat() == "2027-06-30T23:59:59.999999+00:00"


def test_sections_whose_lines_are_commented_out_have_their_defaults(folder: Folder) -> None:
    """A heading with nothing under it is no mistake."""
    sections = "".join(f"{section}:\n" for section in ("admin", "hosts", "upstreams", "trust", "limits", "log", "cache"))
    loaded = folder.load(sections + RULES)
    assert loaded.settings.limits.manifest_size == 4 << 20
    assert len(loaded.warnings) == 1


def test_the_file_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, else the environment, else the current folder, else /etc; else both are told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGSTONE_CONFIG", "from-environment.yaml")
    system = tmp_path / "etc.yaml"
    monkeypatch.setattr(configuration, "SYSTEM", system)
    assert find(Path("named.yaml")) == Path("named.yaml")
    assert find(None) == Path("from-environment.yaml")
    monkeypatch.setenv("TAGSTONE_CONFIG", "")
    with pytest.raises(ConfigurationError) as caught:
        find(None)
    assert str(caught.value) == f"tagstone.yaml: there is no such file, nor {system}; name one with --config or $TAGSTONE_CONFIG"
    system.touch()
    assert find(None) == system
    (tmp_path / "tagstone.yaml").touch()
    assert find(None) == Path("tagstone.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Without a line, since there is none."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "gone.yaml")
    assert caught.value.problems == (Problem(str(tmp_path / "gone.yaml"), 0, "", "cannot be read: No such file or directory"),)
    assert str(caught.value) == f"{tmp_path}/gone.yaml: cannot be read: No such file or directory"


def test_loading_is_quick(folder: Folder) -> None:
    """A normal file, of thirty rules and a key, takes less than 50 ms, so that a reload is not felt."""
    rules = "".join(
        f"  - {{match: ghcr.io/team-{n}/**, require: {{signature: {{key: a}}}}, tags: [{{match: '*'}}]}}\n" for n in range(30)
    )
    folder.write(f"{UPSTREAM}trust: {{keys: {{a: {{file: one.pub}}}}}}\nrules:\n{rules}")
    load(folder.file)
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        load(folder.file)
        best = min(best, time.process_time() - began)
    assert best < 0.05


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    """Checking a file needs neither network nor database nor sigstore."""
    heavy = ("aiohttp", "sqlalchemy", "sigstore", "asyncio", "cryptography")
    code = textwrap.dedent(f"""
        import sys
        import proxy.configuration
        import proxy.configuration.schema
        print([name for name in {heavy!r} if name in sys.modules])
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.strip() == "[]"


def test_a_bundle_of_all_the_authorities_of_a_system_is_read(folder: Folder) -> None:
    """Notation stores and roots take certificates by the hundred, with notes between them: more bytes than a key may have."""
    pem = issue(depth=2).root_pem.decode()
    (folder.path / "all.pem").write_text("\n".join(f"# {'note ' * 400}\n{pem}" for _ in range(100)))
    assert (folder.path / "all.pem").stat().st_size > 200_000
    trust = "trust: {notation: {all: {ca: [all.pem]}}, roots: {all: {ca: [all.pem]}}}\n"
    loaded = folder.load(UPSTREAM + trust + RULES)
    assert len(loaded.trusted.stores["all"].ca) == 1
