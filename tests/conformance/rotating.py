"""What the tests of rotation share: a proxy whose rules rotate, images signed by this one and that, time that passes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Table, update

from proxy.services.operators import Act, Operators, Signed
from proxy.services.revision import utc_now
from storage.digest import Digest
from storage.records import EventType, Pin, PinAction
from storage.reference import Reference
from storage.tables import pins
from tests.harness import Proxy, until
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer
from tests.simulator.sigstore import PrivateSigstore, Signing

SIGSTORE = PrivateSigstore()
WORKFLOW = "https://github.com/acme/app/.github/workflows"
ISSUER = "https://token.actions.githubusercontent.com"
OTHER = Signer.of("p256", "other")
BY_KEYS = "{any: [{signature: {key: release-key}}, {signature: {key: other}}]}"
KEYLESS = (
    f"{{signature: {{keyless: {{root: private, issuer: '{ISSUER}', "
    "identity: 'https://github.com/acme/app/.github/workflows/*@refs/tags/*'}}}"
)


def workflow(name: str, tag: str) -> Signing:
    """A signature by a workflow at a git tag."""
    return Signing(identity=f"{WORKFLOW}/{name}@refs/tags/{tag}", san="uri", issuer=ISSUER)


class Rotating(Proxy):
    """A proxy with one rule, whose tags rotate as ``how`` says: YAML flow text beside ``on_overwrite: rotate``."""

    @classmethod
    def of(cls, folder: Path, upstream: Registry, how: str = "cooldown: 72h", require: str = BY_KEYS, **more: Any) -> Rotating:
        """One on ``folder``."""
        folder.mkdir(exist_ok=True, parents=True)
        root = SIGSTORE.write_trusted_root(folder / "trusted_root.json")
        (folder / "other.pub").write_bytes(OTHER.public_pem)
        keys = f"other: {{file: {folder}/other.pub}}"
        return cls(folder, upstream, rules=rules(how, require), keys=keys, trust=f"roots: {{private: {{file: {root}}}}}", **more)

    async def get_tag(self, tag: str = "latest") -> tuple[int, str | None]:
        """Status and digest of a pull."""
        answer = await self.manifest("acme/app", tag)
        return answer.status, answer.digest

    async def app(self, tag: str = "latest") -> Pin:
        """The pin."""
        pin = await self.pin(f"acme/app:{tag}")
        assert pin is not None
        return pin

    async def settled(self, holds: Callable[[Pin], bool], tag: str = "latest") -> Pin:
        """Pull until the pin is so."""

        async def so() -> bool:
            await self.get_tag(tag)
            return holds(await self.app(tag))

        await until(so)
        return await self.app(tag)

    async def judged(self, tag: str = "latest") -> Pin:
        """Pull until the candidate has been judged."""
        return await self.settled(lambda pin: pin.judgement is not None, tag)

    async def answers(self, status: int, digest: Digest | None = None, tag: str = "latest") -> None:
        """Pull until the answer is this."""
        expected = (status, None if digest is None else str(digest))

        async def so() -> bool:
            return await self.get_tag(tag) == expected

        await until(so)

    async def age(self, by: timedelta = timedelta(hours=73), tag: str = "latest") -> None:
        """As if the candidate had been seen so much earlier."""
        pin = await self.app(tag)
        assert pin.candidate_seen_at is not None
        row = update(pins).where(pins.c.name == pin.name).values(candidate_seen_at=pin.candidate_seen_at - by)
        await self.application.database.write(lambda connection: connection.execute(row).rowcount)
        self.application.gate.forget()

    async def forget_signers(self, table: Table) -> None:
        """As if who vouched had not been kept yet."""
        await self.application.database.write(lambda connection: connection.execute(update(table).values(signers=None)).rowcount)

    async def told(self) -> list[tuple[str, Digest | None]]:
        """What was told, in order."""
        return [(event.type.value, event.digest) for event in reversed(await self.events())]

    async def open(self) -> set[EventType]:
        """What is open."""
        return {event.type for event in await self.events(open_only=True)}

    async def history(self, tag: str = "latest") -> list[PinAction]:
        """What happened to the pin."""
        reference = Reference.parse(f"{self.name}/acme/app:{tag}")
        return [change.action for change in await self.application.pins.history(reference.repository, tag)]

    async def act(self, verb: str, who: str = "ann", digest: Digest | None = None, tag: str = "latest") -> Act:
        """An operator's act on the running proxy's database."""
        application = self.application
        operators = Operators(application.pins, application.catalog, application._admission, application.gate._revision, utc_now)
        repository, signed = Reference.parse(f"{self.name}/acme/app").repository, Signed(who, "looked at it")
        match verb:
            case "approve":
                return await operators.approve(repository, tag, digest, signed)
            case "reject":
                return await operators.reject(repository, tag, digest, signed)
            case _:
                return await operators.block(digest or Digest("sha256", "0" * 64), signed)


def rules(how: str, require: str = BY_KEYS) -> str:
    """The rule."""
    tags = f'[{{match: "*", on_overwrite: rotate, {how}}}]'
    return f"rules:\n  - match: reg.example/acme/**\n    require: {require}\n    tags: {tags}\n"


def build(upstream: Registry, seed: str, *signers: Signer | Signing, tag: str | None = "latest") -> Image:
    """An image of one's own, signed by these, and then tagged: what a careful publisher does."""
    image = upstream.image("acme/app", None, seed=seed)
    sign(upstream, image, *signers)
    if tag is not None:
        upstream.tag("acme/app", tag, image.digest)
    return image


def sign(upstream: Registry, image: Image, *signers: Signer | Signing) -> None:
    """Sign an image that is there."""
    for signer in signers:
        if isinstance(signer, Signing):
            upstream.refer("acme/app", SIGSTORE.signature_referrer(image, signer))
        else:
            upstream.sign("acme/app", image.digest, signer)


def in_some_days() -> str:
    """A window that is closed today, in any time zone, and opens in three days."""
    day = (datetime.now(UTC) + timedelta(days=3)).weekday()
    return f"window: {{days: [{('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')[day]}]}}"
