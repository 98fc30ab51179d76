"""Failures in words: clean, bounded, without secrets, and each with its own cause."""

from __future__ import annotations

import json
import socket
import ssl
import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import UpstreamMisbehaved
from proxy.upstream.failures import Complaint, Outage, PrivateAddress, clean, complaint, explain, host_of, place, retry_after


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\r\ntwo\x00\tthree", "one two three"),
        ("see https://x.example/p?X-Amz-Signature=abc&y=1 now", "see https://x.example/p now"),
        ("at https://user:pw@x.example/p#frag", "at https://x.example/p"),
        ("sent Authorization: Bearer abcdef.ghijkl", "sent Authorization: Bearer …"),
        ("Basic dXNlcjpwdw== refused", "Basic … refused"),
        ("token eyJhbGciOi.eyJzdWIi.c2ln is old", "token … is old"),
        ("\x1b[31mred\u202e", "[31mred"),
        ("a" * 300, "a" * 199 + "…"),
    ],
)
def test_promise_40_foreign_words_are_cleaned(text: str, line: str) -> None:
    """One printable line of 200 characters at most, without credentials and query strings."""
    assert clean(text) == line


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", {"errors": [{"code": "DENIED", "message": "no\nway", "detail": {}}]}, Complaint("DENIED", "no way")),
        ("text/plain", {"errors": [{"code": "404", "message": "Not found"}]}, Complaint("404", "Not found")),
        ("application/json", {"error": "invalid_grant", "error_description": "old"}, Complaint("invalid_grant", "old")),
        (
            "application/json",
            {"code": 7, "details": "incorrect username or password"},
            Complaint("7", "incorrect username or password"),
        ),
        ("application/json", {"code": 10**400}, Complaint("1" + "0" * 58 + "…", "")),
        ("application/json", {"errors": []}, Complaint("", "")),
        ("application/json", {"errors": ["x"]}, Complaint("", "")),
        ("application/json", {"errors": [{"code": None, "message": 7}]}, Complaint("", "")),
        ("application/json", b'{"errors": [', Complaint("", '{"errors": [')),
        ("application/json", b'{"a":' * 100_000, None),
        ("text/plain", b"Too Many Requests (HAP429).\n", Complaint("", "Too Many Requests (HAP429).")),
        ("text/html", b"<html><body>x</body></html>", Complaint("", "a web page")),
        ("", b"<!DOCTYPE HTML><title>x", Complaint("", "a web page")),
        ("text/html", b"", Complaint("", "")),
        ("", b"", Complaint("", "")),
    ],
)
def test_error_bodies(content_type: str, body: Any, expected: Complaint | None) -> None:
    """The OCI format, other JSON, text, HTML, nothing, and nonsense: never an exception."""
    found = complaint(content_type, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert expected is None or found == expected
    assert str(found) == " ".join(part for part in (found.code, found.words) if part)


@pytest.mark.parametrize(
    ("words", "stale"),
    [
        ("Your authorization token has expired. Reauthenticate and try again.", True),
        ("Your Authorization Token is invalid.", True),
        ("The credentials are not valid", True),
        ("requested access to the resource is denied", False),
        ("invalid tag", False),
        ("", False),
    ],
)
def test_words_about_stale_tokens(words: str, stale: bool) -> None:
    """Only a message about a token or credential that is expired or invalid earns a new one."""
    assert Complaint("DENIED", words).stale is stale


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "100000"}, 60.0),
        ({"Retry-After": "10.3ms"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "nonsense"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
    ],
)
def test_promise_33_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds or a date, by the upstream's own clock, capped; anything else says nothing."""
    assert retry_after(CIMultiDict(headers), 60.0) == seconds


def test_retry_after_a_date_without_a_date() -> None:
    """Without the upstream's clock ours is taken."""
    value = formatdate(time.time() + 20, usegmt=True)
    assert retry_after(CIMultiDict({"Retry-After": value}), 60.0) == pytest.approx(20, abs=2)


def test_urls_are_shown_without_user_and_query() -> None:
    """Scheme, host, port where it is not the usual one, and path."""
    assert place(URL("https://u:p@x.example/a%2Fb?sig=1#f", encoded=True)) == "https://x.example/a%2Fb"
    assert place(URL("http://[::1]:5000/a")) == "http://[::1]:5000/a"
    assert (host_of(URL("https://X.example:443/", encoded=True)), host_of(URL("http://[::1]:5000"))) == (
        "x.example",
        "[::1]:5000",
    )


KEY = cast("Any", SimpleNamespace(host="reg.example", port=443, ssl=True, is_ssl=True))
VERIFICATION = ssl.SSLCertVerificationError(1, "certificate verify failed")
VERIFICATION.verify_message = "unable to get local issuer certificate"
WRONG_VERSION = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
WRONG_VERSION.reason = "WRONG_VERSION_NUMBER"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientConnectorCertificateError(KEY, VERIFICATION), "TLS certificate of reg.example is not trusted: unable to"),
        (aiohttp.ClientConnectorSSLError(KEY, WRONG_VERSION), "TLS with reg.example failed: wrong version number"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name not known")), "reg.example cannot be resolved: Name not"),
        (aiohttp.ClientConnectorDNSError(KEY, TimeoutError(110, "no answer")), "name reg.example cannot be resolved: no answer"),
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "refused")), "reg.example refuses connections"),
        (aiohttp.ClientConnectorError(KEY, OSError(113, "No route to host")), "reg.example cannot be reached: No route to host"),
        (aiohttp.ConnectionTimeoutError(), "no TLS connection to reg.example within 3 s"),
        (aiohttp.ServerDisconnectedError(), "reg.example closed the connection"),
        (aiohttp.ClientOSError(104, "reset"), "reg.example closed the connection"),
        (ConnectionResetError(), "reg.example closed the connection"),
        (aiohttp.ClientResponseError(cast("Any", None), ()), "reg.example answered with broken HTTP"),
        (ValueError("x"), "reg.example answered with broken HTTP"),
    ],
)  # fmt: skip
def test_promise_33_each_failure_has_its_own_words(error: Exception, words: str) -> None:
    """TLS, DNS, refused, unreachable, late, cut and broken are told apart, and name the host."""
    found = explain(error, URL("https://reg.example/v2/?secret=1"), allow_private_hint="", connect=3.0)
    assert isinstance(found, Outage)
    assert words in str(found)
    assert "secret" not in str(found)
    assert found.retry is ("TLS certificate" not in words and "TLS with" not in words)


@pytest.mark.parametrize("wrap", [aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError])
def test_promise_23_private_addresses_are_no_outage(wrap: type[aiohttp.ClientConnectorError]) -> None:
    """An address that may not be dialled is misbehaviour, with the way out."""
    found = explain(wrap(KEY, PrivateAddress("10.0.0.1")), URL("https://x.example"), allow_private_hint="set it", connect=1.0)
    assert isinstance(found, UpstreamMisbehaved)
    assert str(found) == "x.example is at 10.0.0.1, which is not a public address; set it"


def test_an_address_that_is_none() -> None:
    """What aiohttp cannot ask is said to be no address."""
    found = explain(aiohttp.InvalidURL("x"), URL("https://2130706433/x?y"), allow_private_hint="", connect=1.0)
    assert (type(found), str(found)) == (UpstreamMisbehaved, "https://2130706433/x is no address that can be asked")
