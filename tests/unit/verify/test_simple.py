"""GPG simple signing: what gpg signs is accepted, and each fault refused in words."""

# ruff: noqa: E501  # a row of a table is one line

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pysequoia
import pytest

from proxy.content import Lookaside
from proxy.manifest import Bounds, parse
from proxy.policy.rules import AttestationBy, OpenPgp, Question, SignatureBy, Store
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.model import Document, Found, Subject, Trusted
from proxy.verify.openpgp import ExtraMissing, OpenPgpKey
from proxy.verify.pipeline import judge_alone, judge_documents
from proxy.verify.shapes import OPENPGP, is_evidence
from proxy.verify.simple import SimpleSignatures, is_wrapped, wrap
from storage.reference import Repository
from tests.simulator import images
from tests.simulator.openpgp import packet, text
from tests.tools import PATIENCE
from tests.unit.verify.evidence import IMAGE, LIMITS, REPOSITORY, subject
from tests.unit.verify.evidence import document as as_document
from tests.unit.verify.gpg import LOOKASIDE, TEXT, Material

ASKED = SignatureBy(OpenPgp("acme"))
BOUNDS = Bounds(1 << 20, 32, layers=10, blob_size=1 << 20)
VERIFIER = SimpleSignatures(LIMITS)


def judge(signature: bytes, key: OpenPgpKey, of: Subject | None = None, now: datetime | None = None) -> Evidence:
    """The judgement of one signature by one key."""
    found = wrap(signature, BOUNDS)
    trusted = Trusted(openpgp={"acme": key})
    (answer,) = VERIFIER.judge(found, of or subject(), [ASKED], trusted, now or datetime.now(UTC))
    return answer


# -- what is accepted -----------------------------------------------------------------------------------------------


def test_a_signature_by_gpg_is_accepted(gpg: Material) -> None:
    """With its steps, the signer's user ID, and the primary key as the authority."""
    answer = judge(gpg.signature, gpg.key())
    assert answer.accepted, answer.reason
    assert answer.authority == gpg.acme
    assert answer.signer == "Acme <release@acme.test>"
    assert answer.valid_until is None
    assert answer.reason == f"signature by key acme (Acme <release@acme.test>) over {IMAGE.digest}"
    assert answer.source.startswith("lookaside signature sha256:")
    told = " | ".join(answer.steps)
    assert "by its own word | the key holds now as well | it is about sha256:" in told
    assert told.endswith("it names the repository: registry.test/team/app:1.0")


@pytest.mark.parametrize(
    "options",
    [("-z", "0"), ("--compress-algo", "zip"), ("--compress-algo", "zlib"), ("--compress-algo", "bzip2"), ("--textmode",)],
    ids="-".join,
)
def test_every_form_that_gpg_writes_is_accepted(gpg: Material, options: tuple[str, ...]) -> None:
    """Compressed in any way, or not at all."""
    answer = judge(gpg.keyring.sign(TEXT, gpg.acme, options=options), gpg.key())
    assert answer.accepted, answer.reason


def test_keys_are_read_in_every_form(gpg: Material) -> None:
    """Armored, binary, several in one export, several armors in one file; each of them is an authority of its own."""
    both = gpg.key(gpg.other, gpg.acme)
    files = [both, gpg.key(gpg.other, gpg.acme, armor=False)]
    files.append(OpenPgpKey.load("acme", gpg.keyring.export(gpg.other) + gpg.keyring.export(gpg.acme), LOOKASIDE))
    told = b"The key of Acme\n\npub ed25519\n%b\nand that of others:\n%b"  # as distributions ship theirs
    files.append(OpenPgpKey.load("acme", told % (gpg.keyring.export(gpg.acme), gpg.keyring.export(gpg.other)), LOOKASIDE))
    rsa = gpg.keyring.sign(TEXT, gpg.other)
    for key in files:
        assert key.fingerprints == {gpg.acme, gpg.other}
        assert judge(gpg.signature, key).authority == gpg.acme
        assert judge(rsa, key).authority == gpg.other
    assert gpg.key().identity != both.identity


def test_a_subkey_signs_for_its_certificate(gpg: Material) -> None:
    """Its own end is the latest that counts."""
    key, signature = gpg.prolonged_subkey
    answer = judge(signature, key)
    assert answer.accepted, answer.reason
    assert {answer.authority} == key.fingerprints
    assert answer.valid_until is not None
    assert answer.valid_until.year >= 2089


def test_gpg_forgets_what_held_before_it_prolonged_a_key(gpg: Material) -> None:
    """It writes the binding of a subkey anew, so the newer export alone does not say that it held before: refused."""
    key, signature = gpg.prolonged_subkey
    newer = gpg.key(*key.fingerprints)
    assert newer.fingerprints == key.fingerprints
    assert "did not hold then" in judge(signature, newer).reason


def test_the_repository_may_be_spelled_as_clients_spell_it(gpg: Material) -> None:
    """Docker Hub's short names, a digest behind the name, no tag at all; the registry of the image, whatever its port."""
    hub = Subject(Repository.of("docker.io", "library/nginx"), IMAGE.digest, IMAGE.body)
    local = Subject(Repository.of("127.0.0.1:5000", "team/app"), IMAGE.digest, IMAGE.body)
    names = {
        "nginx": hub,
        "nginx:1.27": hub,
        "library/nginx:1": hub,
        "docker.io/library/nginx:latest": hub,
        "index.docker.io/library/nginx:latest": hub,
        f"nginx:1@{IMAGE.digest}": hub,
        "127.0.0.1:5000/team/app:1": local,
    }
    for name, of in names.items():
        answer = judge(gpg.keyring.sign(text(IMAGE.digest, name), gpg.acme), gpg.key(), of)
        assert answer.accepted, answer.reason


def test_what_is_optional_says_nothing(gpg: Material) -> None:
    """Whatever it holds."""
    for optional in ({}, {"creator": 1, "timestamp": "x", "more": [None, {"critical": {}}]}):
        answer = judge(gpg.keyring.sign(text(IMAGE.digest, str(REPOSITORY), optional=optional), gpg.acme), gpg.key())
        assert answer.accepted, answer.reason


# -- faults of the text ---------------------------------------------------------------------------------------------

OTHER = images.image("other").digest
NAME = str(REPOSITORY)
DIGEST = "docker-manifest-digest"


@pytest.mark.parametrize(
    ("signed", "told"),
    [
        (text(OTHER, NAME), f"is about another image: {OTHER}"),
        (text(str(IMAGE.digest).upper(), NAME), "is about another image: SHA256:"),
        (text("", NAME), "is about another image: "),
        (text(IMAGE.digest, "registry.test/team/other:1.0"), "names another repository: registry.test/team/other:1.0, not"),
        (text(IMAGE.digest, "registry.evil/team/app:1.0"), "names another repository"),
        (text(IMAGE.digest, "team/app"), "names another repository"),
        (text(IMAGE.digest, "registry.test/team/app.evil"), "names another repository"),
        (text(IMAGE.digest, "registry.test/team/app/"), "names no repository"),
        (text(IMAGE.digest, ""), "names no repository"),
        (text(IMAGE.digest, "registry.test/team/app:1.0@sha256:1"), "names no repository"),
        (text(IMAGE.digest, NAME, critical={"type": "cosign container image signature"}), "is of type 'cosign container image"),
        (text(IMAGE.digest, NAME, critical={"type": ""}), "is of type ''"),
        (text(IMAGE.digest, NAME, critical={"type": 1}), "has no text 'type'"),
        (text(IMAGE.digest, NAME, critical={"valid-for": "1h"}), "holds something unknown in its critical part: valid-for"),
        (text(IMAGE.digest, NAME, critical={"image": {DIGEST: str(IMAGE.digest), "platform": "x"}}), "holds something unknown in what it says"),
        (text(IMAGE.digest, NAME, critical={"image": {}}), f"has no '{DIGEST}' in what it says of the image"),
        (text(IMAGE.digest, NAME, critical={"image": {"Docker-manifest-digest": str(IMAGE.digest)}}), "holds something unknown"),
        (text(IMAGE.digest, NAME, critical={"image": [str(IMAGE.digest)]}), "has no object 'image'"),
        (text(IMAGE.digest, NAME, critical={"identity": {"docker-reference": NAME, "key": 1}}), "holds something unknown in the identity"),
        (text(IMAGE.digest, NAME, critical={"identity": {"docker-reference": [NAME]}}), "has no text 'docker-reference'"),
        (text(IMAGE.digest, NAME, critical={"identity": None}), "has no object 'identity'"),
        (text(IMAGE.digest, NAME, optional=...), "has no 'optional' in its text"),
        (text(IMAGE.digest, NAME, optional=[]), "has no object 'optional'"),
        (text(IMAGE.digest, NAME, also=1), "holds something unknown in its text: also"),
        (b'{"optional": {}}', "has no 'critical' in its text"),
        (b"[]", "has a text that is not a JSON object"),
        (b"", "has a text that cannot be read"),
        (b"\xff\xfe", "has a text that cannot be read"),
        (TEXT[:-1], "has a text that cannot be read"),
        (TEXT[:-1] + b', "critical": {}}', "has a text that cannot be read"),
        (TEXT + TEXT, "has a text that cannot be read"),
        (b"[" * 3000, "has a text that cannot be read"),
    ],
)  # fmt: skip
def test_a_text_that_says_something_else_is_refused(gpg: Material, signed: bytes, told: str) -> None:
    """Properly signed by the right key, and still no signature of this image."""
    answer = judge(gpg.keyring.sign(signed, gpg.acme), gpg.key())
    assert not answer.accepted
    assert answer.reason.startswith(f"made by key acme, but it {told}")
    assert answer.authority == gpg.acme


# -- faults of the signature ----------------------------------------------------------------------------------------


FAULTS: dict[str, tuple[Callable[[Material], tuple[OpenPgpKey, bytes]], str]] = {
    "another key": (lambda m: (m.key(m.other), m.signature), "is not made by key acme, but by OpenPGP key "),
    "expired key": (lambda m: m.expired, "expired on 2024-06-01"),
    "expired subkey": (lambda m: m.expired_subkey, "expired on 2024-06-01"),
    "revoked key": (lambda m: m.revoked, "was revoked (key acme)"),
    "revoked subkey": (lambda m: m.revoked_subkey, "was revoked"),
    "detached": (lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, how="--detach-sign")), "is a detached OpenPGP signature"),
    "clear text": (lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, how="--clear-sign")), "is in ASCII armor"),
    "armor": (lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, options=("--armor",))), "is in ASCII armor"),
    "two signatures": (lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, m.other)), "has 2 OpenPGP signatures"),
    "weak digest": (
        lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, options=("--digest-algo", "SHA1"))),
        "names Acme <release@acme.test> as its signer (key acme), but does not hold",
    ),
    "from the future": (
        lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, at="20900101T000000")),
        "but does not hold: it was changed, its digest is too weak, it is not of its time",
    ),
    "before its key": (
        lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, options=("--ignore-time-conflict",), at="20200101T000000")),
        "does not hold",
    ),
    "a key that may not sign": (
        lambda m: (m.key(m.keyring.make("Only <only@acme.test>", usage="cert")), m.signature),
        "is not made by key acme",
    ),
    "changed": (lambda m: (m.key(), m.keyring.sign(TEXT, m.acme, options=("-z", "0")).replace(b"1.0", b"2.0")), "does not hold"),
    "an image": (lambda m: (m.key(), b"\x1f\x8b" + bytes(600)), "is no OpenPGP message"),
    "a web page": (lambda m: (m.key(), b"<!doctype html><title>404</title>"), "is no OpenPGP message"),
    "garbage": (lambda m: (m.key(), bytes(range(128, 256)) * 8), "is "),
    "empty": (lambda m: (m.key(), b""), "is empty"),
    "empty packets": (lambda m: (m.key(), packet(4, b"") + packet(11, b"") + packet(2, b"")), "is broken"),
    "the key itself": (lambda m: (m.key(), m.keyring.export(m.acme, armor=False)), "is an OpenPGP key, not a signature"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused(gpg: Material, fault: str) -> None:
    """In words that say which, and with nothing but text that is fit for a header."""
    make, told = FAULTS[fault]
    key, signature = make(gpg)
    answer = judge(signature, key)
    assert not answer.accepted
    assert told in answer.reason
    assert answer.about == ASKED
    assert answer.reason.isascii()
    assert answer.reason.isprintable()


def test_a_signature_ends_by_its_own_word(gpg: Material) -> None:
    """It counts until then and not after; Sequoia's clock and ours agree."""
    signature = gpg.keyring.sign(TEXT, gpg.acme, options=("--default-sig-expire", "2d"))
    answer = judge(signature, gpg.key())
    assert answer.accepted, answer.reason
    end = answer.valid_until
    assert end is not None
    assert timedelta(days=1) < end - datetime.now(UTC) <= timedelta(days=2)
    assert judge(signature, gpg.key(), now=end - timedelta(seconds=1)).accepted
    assert "it expired on" in judge(signature, gpg.key(), now=end).reason


def test_the_window_is_judged_now(gpg: Material) -> None:
    """A closed interval; nothing proves that the signature is older than its end."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
    key = OpenPgpKey.load("acme", gpg.keyring.export(gpg.acme), LOOKASIDE, start, end)
    assert judge(gpg.signature, key, now=start).valid_until == end
    assert judge(gpg.signature, key, now=end).accepted
    told = judge(gpg.signature, key, now=end + timedelta(seconds=1)).reason
    assert told == "made by key acme, but key acme was valid until 2090-01-01 00:00:00 UTC"
    assert "valid from 2026-01-01" in judge(gpg.signature, key, now=start - timedelta(seconds=1)).reason


def test_a_large_signature_is_refused_unread(gpg: Material) -> None:
    """By the limit for signatures, before and after it is unpacked."""
    found = wrap(gpg.signature, BOUNDS)
    trusted = Trusted(openpgp={"acme": gpg.key()})
    (answer,) = SimpleSignatures(Limits(signature_size=50)).judge(found, subject(), [ASKED], trusted, datetime.now(UTC))
    assert "the limit for a signature is 50" in answer.reason
    assert (
        "has more than 1048576 bytes when it is unpacked" in judge(gpg.keyring.sign(bytes(2 << 20), gpg.acme), gpg.key()).reason
    )


# -- questions and documents ----------------------------------------------------------------------------------------


def test_only_its_own_questions_are_answered(gpg: Material) -> None:
    """Nothing about other keys, stores and attestations, nor about a key that is not trusted."""
    questions: list[Question] = [
        SignatureBy("acme"),
        SignatureBy(Store("acme")),
        AttestationBy("t", "acme"),
        SignatureBy(OpenPgp("nobody")),
    ]
    trusted = Trusted(openpgp={"acme": gpg.key()})
    assert VERIFIER.judge(wrap(gpg.signature, BOUNDS), subject(), questions, trusted, datetime.now(UTC)) == ()
    two = [ASKED, SignatureBy(OpenPgp("acme"), docker_reference=True)]
    assert [each.about for each in VERIFIER.judge_bytes("x", gpg.signature, subject(), two, trusted, datetime.now(UTC))] == two


def test_a_wrapped_signature_is_evidence_and_always_the_same() -> None:
    """By its shape; it names no subject, so no list of referrers holds it."""
    found, again = wrap(b"\x90signature", BOUNDS), wrap(b"\x90signature", BOUNDS)
    assert found == again
    assert found.found is Found.LOOKASIDE
    assert is_evidence(found.parsed)
    assert is_wrapped(found.parsed)
    assert found.parsed.subject is None
    assert json.loads(found.manifest.body)["layers"][0]["mediaType"] == OPENPGP
    assert wrap(b"\x90other", BOUNDS).manifest.digest != found.manifest.digest


def test_nothing_in_the_registry_passes_for_a_lookaside(gpg: Material) -> None:
    """The manifest's layers are asked for nowhere, and a manifest that only looks like one is not judged."""
    found = wrap(gpg.signature, BOUNDS)
    assert VERIFIER.wants(found.parsed, found.parsed.layers[0], [ASKED]) is None
    two = json.loads(found.manifest.body)
    two["layers"] *= 2
    assert not is_wrapped(parse(json.dumps(two).encode(), found.parsed.media_type, BOUNDS))
    assert not is_wrapped(as_document(IMAGE).parsed)


def test_a_file_is_judged_by_what_it_is(gpg: Material) -> None:
    """Binary OpenPGP as a signature, anything else as a bundle."""
    trusted, now = Trusted(openpgp={"acme": gpg.key()}), datetime.now(UTC)
    (answer,) = judge_alone(LIMITS, "signature-1", gpg.signature, subject(), [ASKED], trusted, now)
    assert answer.accepted
    assert answer.source == "signature-1"
    assert not any(each.accepted for each in judge_alone(LIMITS, "x", b"{}", subject(), [ASKED], trusted, now))
    (missing,) = judge_alone(LIMITS, "x", gpg.signature, subject(), [ASKED], Trusted(), now)
    assert missing.reason == "knows no key acme"


def test_threads_may_judge_with_the_same_key(gpg: Material) -> None:
    """The library's objects are not bound to the thread that read them."""
    key, found = gpg.key(), list[Evidence]()
    threads = [threading.Thread(target=lambda: found.append(judge(gpg.signature, key))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [each.accepted for each in found] == [True] * 4


class _PanicException(BaseException):
    """As pyo3 raises it: no Exception."""


_PanicException.__name__ = "PanicException"


def test_a_panic_of_the_library_is_a_refusal(gpg: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which in Python is no Exception; an interrupt stays one."""

    def raising(error: type[BaseException]) -> Callable[..., Any]:
        def verify(**_: object) -> None:
            raise error

        return verify

    key = gpg.key()
    monkeypatch.setattr(pysequoia, "verify", raising(_PanicException))
    assert "does not hold" in judge(gpg.signature, key).reason
    monkeypatch.setattr(pysequoia, "verify", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        judge(gpg.signature, key)


# -- keys -----------------------------------------------------------------------------------------------------------


def test_what_is_no_public_key_is_told(gpg: Material) -> None:
    """Each by what it is."""
    secret = gpg.keyring.run("--armor", "--export-secret-keys", gpg.acme)
    cases = {
        secret: "this is a private key",
        gpg.keyring.run("--export-secret-keys", gpg.acme): "this is a private key",
        gpg.signature: "this is no OpenPGP key",
        b"": "there is no OpenPGP key in here",
        b"-----BEGIN PUBLIC KEY-----\n": "this is a PEM public key, not OpenPGP: give it under `file`",
        b"nothing": "this is no OpenPGP key",
        bytes((1 << 20) + 1): "it has more than 1048576 bytes",
        b"".join(
            bytes(pysequoia.Tsk.generate(f"{number}").extract_certificate()) for number in range(65)
        ): "there are more than 64 OpenPGP keys in here",
    }
    for body, told in cases.items():
        with pytest.raises(ValueError, match=told):
            OpenPgpKey.load("acme", body, Lookaside())


def test_without_the_extra_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it."""
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'tagstone\[gpg\]'"):
        OpenPgpKey.load("acme", b"", Lookaside())


def test_documents_of_others_are_left_to_them(gpg: Material) -> None:
    """A wrapped signature is judged by one verifier, and an image by none."""
    from proxy.verify.pipeline import default_verifiers

    def formats(document: Document) -> list[str]:
        return [each.name for each in default_verifiers(LIMITS) if each.judges(document)]

    assert formats(wrap(gpg.signature, BOUNDS)) == ["OpenPGP signature"]
    assert formats(as_document(IMAGE)) == []
    (piece,) = judge_documents(
        default_verifiers(LIMITS),
        [wrap(gpg.signature, BOUNDS)],
        subject(),
        [ASKED],
        Trusted(openpgp={"acme": gpg.key()}),
        datetime.now(UTC),
    )
    assert piece.accepted
