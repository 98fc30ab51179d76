"""The installed command with the network cut off: in a network namespace of its own, where not even loopback is up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator import images
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.tools import PATIENCE, need

pytestmark = pytest.mark.client

IMAGE = images.image("app")
TYPE = "https://slsa.dev/provenance/v1"


def cut_off(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``tagstone`` without any network."""
    tagstone = Path(sys.executable).with_name("tagstone")
    command = [need("unshare"), "-n", tagstone, *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if "unshare failed" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip(f"a network namespace is not permitted: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("how", [Signing(), Signing(rekor=2), Signing(key="p384", native_hash=True)], ids=["v1", "v2", "p384"])
def test_evidence_in_files_is_judged_without_a_network(tmp_path: Path, how: Signing) -> None:
    """Certificate, log and timestamps are all in the bundle and the root; an image of another digest is refused all the same."""
    sigstore = PrivateSigstore()
    root = sigstore.write_trusted_root(tmp_path / "root.json")
    by = f"{{root: own, issuer: '{how.issuer}', identity: '{how.identity}'}}"
    config = tmp_path / "tagstone.yaml"
    config.write_text(
        f"upstreams: {{reg.example: {{}}}}\ntrust: {{roots: {{own: {{file: {root}}}, sigstore: public-good}}}}\n"
        f'rules: [{{match: "**", require: {{attestation: {{type: "{TYPE}", by: {by}, when: "predicate.good"}}}}}}]\n'
    )
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(sigstore.attestation_bundle(IMAGE.digest, TYPE, {"good": True}, how))
    for digest, code in ((IMAGE.digest, 0), (images.image("other").digest, 1)):
        done = cut_off("verify", f"reg.example/team/app@{digest}", "--config", config, "--evidence", bundle)
        assert done.returncode == code, done.stdout + done.stderr


def test_what_is_trusted_is_shown_without_a_network(tmp_path: Path) -> None:
    """The public-good root comes with the installation."""
    config = tmp_path / "tagstone.yaml"
    config.write_text('trust: {roots: {sigstore: public-good}}\nrules: [{match: "**", require: deny}]\n')
    done = cut_off("trust", "show", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "roots.sigstore" in done.stdout
