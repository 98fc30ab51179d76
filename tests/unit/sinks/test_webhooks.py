"""Signatures of Standard Webhooks, against the reference library and the specification's own example."""

from __future__ import annotations

import base64
import os
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from proxy.sinks.webhooks import headers, parse_secrets


def symmetric(length: int = 32) -> str:
    """A new secret."""
    return "whsec_" + base64.b64encode(os.urandom(length)).decode()


@given(
    key=st.binary(min_size=24, max_size=64),
    body=st.text(st.characters(codec="utf-8"), max_size=200).map(str.encode),
    name=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
)
def test_the_reference_library_takes_every_signature(key: bytes, body: bytes, name: str) -> None:
    """Whatever the secret, the body and the id; and it refuses it for a changed body."""
    secret = "whsec_" + base64.b64encode(key).decode()
    sent = headers(parse_secrets(secret), name, int(time.time()), body)
    Webhook(secret).verify(body, sent, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b"x", sent, json_parse=False)


def test_while_secrets_are_replaced_each_of_them_verifies() -> None:
    """Two secrets: two signatures, apart by a blank; a third secret has none."""
    old, new = symmetric(), symmetric(24)
    sent = headers(parse_secrets(f"{new}\n{old}\n"), "m", int(time.time()), b"{}")
    assert [each.partition(",")[0] for each in sent["webhook-signature"].split(" ")] == ["v1", "v1"]
    for secret in (old, new):
        assert Webhook(secret).verify(b"{}", sent) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(symmetric()).verify(b"{}", sent)


def test_an_ed25519_key_signs_as_v1a() -> None:
    """Over the same bytes, ``{id}.{timestamp}.{body}``; receivers need the public key only."""
    seed = bytes(range(32))
    sent = headers(parse_secrets("whsk_" + base64.b64encode(seed).decode()), "m", 1674087231, b'{"a":1}')
    version, _, value = sent["webhook-signature"].partition(",")
    assert (version, sent["webhook-timestamp"], sent["webhook-id"]) == ("v1a", "1674087231", "m")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    public.verify(base64.b64decode(value), b'm.1674087231.{"a":1}')
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(value), b'm.1674087232.{"a":1}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds 0 secrets"),
        (" ".join(["whsec_" + "A" * 43 + "="] * 5), "holds 5 secrets"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "24 to 64 bytes"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "24 to 64 bytes"),
        ("whsec_not base64!", "24 to 64 bytes"),
        ("whsec_äöü", "24 to 64 bytes"),
        ("whsk_" + base64.b64encode(b"x" * 64).decode(), "32 bytes of an Ed25519"),
        ("topsecret-password", "begin with"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(text: str, said: str) -> None:
    """The message says what is wrong, and nothing of what stands there."""
    with pytest.raises(ValueError, match=said) as caught:
        parse_secrets(text)
    assert "topsecret" not in str(caught.value)
    assert "base64!" not in str(caught.value)


def test_a_full_stop_in_an_id_is_refused() -> None:
    """``a.1`` with timestamp 2 and ``a`` with timestamp 1.2 would be signed alike."""
    with pytest.raises(ValueError, match="full stop"):
        headers(parse_secrets(symmetric()), "a.1", 2, b"")


def test_secrets_are_not_shown() -> None:
    """A signer that finds its way into a log says nothing."""
    assert repr(parse_secrets(symmetric())[0]) == "Signer(version='v1')"
