"""Admission as written: what would keep the API server out, or mean two things, is told with its line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trustme

from proxy.policy.reviews import Mutation, ReviewPolicy
from tests.unit.configuration.files import Folder

REST = 'upstreams: {docker.io: {}, "corp.example:5443": {}}\nrules: [{match: "**", require: deny}]\n'
HASH = hashlib.sha256(b"tagstone_x").hexdigest()
ACCESS = f"access: {{tokens: {{ci: {{sha256: {HASH}}}}}}}\n"


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", None),
        ("admission: {}", ReviewPolicy()),
        ("admission: {mutate: none, tags: refuse, images: 5}", ReviewPolicy(Mutation.NONE, None, False, 5)),
        ("admission: {mutate: mirror, mirror: 'Mirror.example:5000'}", ReviewPolicy(Mutation.MIRROR, "mirror.example:5000")),
        ("admission: {mirror: localhost}", ReviewPolicy(mirror="localhost")),
    ],
)
def test_what_is_written_holds(folder: Folder, text: str, policy: ReviewPolicy | None) -> None:
    """Off unless it is there; digests are written unless something else is said."""
    assert folder.load(f"{text}\n{REST}").reviews == policy


def test_who_may_ask(folder: Folder) -> None:
    """Besides those who may pull."""
    found = folder.load(f"{ACCESS}admission: {{who: ['token:ci'], networks: [10.0.0.0/8]}}\n{REST}").reviews
    assert found is not None
    assert found.askers is not None
    assert [pattern.text for pattern in found.askers.who] == ["token:ci"]
    assert [str(network) for network in found.askers.networks] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("admission:", "admission: has nothing in it: remove the key, or say what is meant"),
        ("admission: {mutate: tags}", "admission.mutate: "),
        ("admission: {mutate: mirror}", "admission.mutate: needs `mirror`"),
        ("admission: {mirror: 'https://mirror.example'}", "admission.mirror: 'https://mirror.example' is not a registry"),
        ("admission: {mirror: docker.io}", "admission.mirror: `docker.io` is an upstream"),
        ("admission: {mirror: mirror}", "admission.mirror: names below `mirror` would be read as ones of docker.io"),
        ("admission: {images: 0}", "admission.images: "),
        ("admission: {who: [anyone]}", "admission.who: needs `access`"),
        ("admission: {networks: [10.0.0.0/8]}", "admission.networks: limits `who`, and there is none"),
        (ACCESS + "admission: {who: ['token:none']}", "no token `none` under access.tokens"),
        (ACCESS + "admission: {who: [anyone], networks: [10.0.0.1/8]}", "is no network"),
        ("admission: {prefix: x}", "unknown key `prefix`"),
    ],
)
def test_mistakes_are_told(folder: Folder, text: str, told: str) -> None:
    """In the words of the file, with the way out."""
    errors = folder.errors(f"{text}\n{REST}")
    assert any(told in error for error in errors), errors


def test_what_a_person_would_want_to_know(folder: Folder, tmp_path: Path) -> None:
    """An API server asks by TLS, and has a certificate only where it was given one; ports have no place below a name."""

    def warnings(text: str) -> list[str]:
        return [warning for warning in folder.warnings(f"{text}\n{REST}") if "admission" in warning]

    assert warnings("admission: {}") == []
    (told,) = warnings("listen: 0.0.0.0:5000\nadmission: {}")
    assert "Kubernetes asks by https alone" in told
    (told,) = warnings("admission: {mutate: mirror, mirror: mirror.example}")
    assert "images of corp.example:5443 keep their registry" in told
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder.path / "tls.crt"))
    issued.private_key_pem.write_to_path(str(folder.path / "tls.key"))
    ca.cert_pem.write_to_path(str(folder.path / "ca.crt"))
    tls = "listen: 0.0.0.0:5000\ntls: {certificate: tls.crt, key: tls.key%s}\nadmission: {}"
    assert warnings(tls % "") == []
    (told,) = warnings(tls % ", client_ca: ca.crt")
    assert "and so must the API server" in told
