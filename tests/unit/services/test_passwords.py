"""Passwords: right, wrong and changed; who guesses waits, and keeps nobody else out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import bcrypt
import pytest

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.services.passwords import WRONG, Passwords, decoy, place_of
from tests.tools import PATIENCE


def hashed(password: str, cost: int = 4) -> bytes:
    """A hash of this password."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))


USERS = {"alice": hashed("right"), "robot": hashed("also right")}


class Slow:
    """bcrypt that waits to be let go, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, password: bytes, hashed_password: bytes) -> bool:
        self.count += 1
        self.began.set()
        assert self.go.wait(PATIENCE)
        return bcrypt.hashpw(password, hashed_password) == hashed_password


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Every check waits, until the test lets it go."""
    waiting = Slow()
    monkeypatch.setattr("proxy.services.passwords.bcrypt.checkpw", waiting)
    yield waiting
    waiting.go.set()


async def wrong(passwords: Passwords, user: str, password: str, address: str) -> None:
    """A password that is refused."""
    with pytest.raises(LoginRefused, match=WRONG):
        await passwords.check(user, password, address)


async def test_a_robot_with_an_old_password_keeps_out_only_itself() -> None:
    """Ten failures of one user from one place stop that user there; others from there, and that user elsewhere, go on."""
    passwords = Passwords(USERS)
    for guess in range(10):
        await wrong(passwords, "robot", f"stale {guess}", "192.0.2.1")
    with pytest.raises(LoginUnavailable, match="too many wrong passwords from"):
        await passwords.check("robot", "also right", "192.0.2.1")
    assert await passwords.check("alice", "right", "192.0.2.1") == USERS["alice"]
    assert await passwords.check("robot", "also right", "192.0.2.2") == USERS["robot"]
    await passwords.close()


async def test_guessing_many_users_has_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred failures from one place stop all that is new from there; who is known there goes on."""
    monkeypatch.setattr("proxy.services.passwords.bcrypt.checkpw", lambda password, _: password == b"right")
    passwords = Passwords(USERS)
    await passwords.check("alice", "right", "192.0.2.1")
    for guess in range(100):
        await wrong(passwords, f"user{guess}", "guess", "192.0.2.1")
    with pytest.raises(LoginUnavailable):
        await passwords.check("robot", "right", "192.0.2.1")
    await passwords.check("alice", "right", "192.0.2.1")
    await passwords.close()


async def test_one_place_fills_no_queue(slow: Slow) -> None:
    """Eight checks of one place wait, a ninth is sent away; another place still gets its turn."""
    passwords = Passwords(USERS)
    many = [asyncio.create_task(passwords.check("alice", f"guess {n}", f"2001:db8::{n}")) for n in range(9)]
    done, _ = await asyncio.wait(many, return_when=asyncio.FIRST_EXCEPTION, timeout=10)
    assert [type(task.exception()) for task in done] == [LoginUnavailable]
    other = asyncio.create_task(passwords.check("alice", "right", "2001:db8:1::1"))
    await asyncio.sleep(0)
    slow.go.set()
    assert await other == USERS["alice"]
    await asyncio.gather(*many, return_exceptions=True)
    await passwords.close()


async def test_a_herd_with_one_password_is_one_check(slow: Slow) -> None:
    """A hundred requests of one client at once cost what one costs."""
    passwords = Passwords(USERS)
    herd = [asyncio.create_task(passwords.check("alice", "right", "192.0.2.1")) for _ in range(100)]
    assert await asyncio.to_thread(slow.began.wait, 10)
    slow.go.set()
    assert set(await asyncio.gather(*herd)) == {USERS["alice"]}
    assert slow.count == 1
    await passwords.close()


async def test_a_password_that_changes_while_it_is_checked_is_wrong(slow: Slow) -> None:
    """What was right a moment ago gives no session to the one that came after it."""
    passwords = Passwords(USERS)
    check = asyncio.create_task(passwords.check("alice", "right", "192.0.2.1"))
    assert await asyncio.to_thread(slow.began.wait, 10)
    passwords.adopt({"alice": hashed("new")})
    slow.go.set()
    with pytest.raises(LoginRefused):
        await check
    assert await passwords.check("alice", "new", "192.0.2.1") != USERS["alice"]
    await passwords.close()


@pytest.mark.parametrize("cost", [4, 6])
async def test_unknown_users_cost_what_known_ones_do(cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work, by the cost that the file has, and the same words."""
    costs: list[bytes] = []

    def check(password: bytes, hashed_password: bytes) -> bool:
        costs.append(hashed_password[4:6])
        return bcrypt.hashpw(password, hashed_password) == hashed_password

    monkeypatch.setattr("proxy.services.passwords.bcrypt.checkpw", check)
    passwords = Passwords({"alice": hashed("right", cost)})
    await wrong(passwords, "alice", "guess", "192.0.2.1")
    await wrong(passwords, "nobody", "guess", "192.0.2.1")
    assert costs == [b"%02d" % cost] * 2
    await passwords.close()


async def test_without_users_nothing_is_computed(slow: Slow) -> None:
    """Where there is no password file, guessing costs nothing."""
    await wrong(Passwords({}), "alice", "guess", "192.0.2.1")
    assert slow.count == 0


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b", "\ud800"])
async def test_what_bcrypt_would_cut_is_wrong(password: str) -> None:
    """More than 72 bytes, NUL, half a surrogate pair: no password."""
    passwords = Passwords({"alice": hashed("x" * 72), "bob": hashed("a")})
    for user in ("alice", "bob"):
        await wrong(passwords, user, password, "192.0.2.1")
    await passwords.close()


def test_the_decoy_is_a_hash() -> None:
    """Checking against it takes its time and never succeeds."""
    assert not bcrypt.checkpw(b"anything", decoy({}))
    assert not bcrypt.checkpw(b"", decoy(USERS))


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2%eth0", "2001:db8::/64"),
        (None, ""),
        ("unix", "unix"),
    ],
)
def test_one_client_is_one_place(address: str | None, place: str) -> None:
    """Of an IPv6 network of 64 bits, one client has all addresses."""
    assert place_of(address) == place
