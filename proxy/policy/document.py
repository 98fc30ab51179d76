"""Trust and rules as the file writes them: what may stand there, before it is known to make sense.

:mod:`proxy.configuration` turns these into the values that decide (:mod:`proxy.policy.rules`). Some forms are known but not
available in this version (:data:`UNAVAILABLE`): the file may be checked for spelling, and is refused with words that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from proxy.schema import Duration, EmptyMapping, End, FilePath, Model, Name, Start

#: What stands in the description of everything that is known but cannot be used yet.
UNAVAILABLE = "Known, but not available in this version."


# -- trust ----------------------------------------------------------------------------------------------------------


class KeySettings(Model):
    """A public key that rules may name."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["file"]}, {"required": ["gpg"]}]})

    file: FilePath | None = Field(
        None, description="PEM file with the public key: ECDSA P-256, P-384 or P-521, RSA from 2048 bits, or Ed25519. Required."
    )
    valid_from: Start | None = Field(
        None, description="First moment at which signatures by this key count: a date (its first instant in UTC) or a time."
    )
    valid_until: End | None = Field(
        None, description="Last moment at which signatures by this key count: a date (its last instant in UTC) or a time."
    )
    root: str | None = Field(
        None,
        description="Entry of `trust.roots` that proves when a signature was made. Not used in this version: "
        "the window is judged at the present time, which is stricter.",
    )
    gpg: FilePath | None = Field(None, description=f"OpenPGP public key. {UNAVAILABLE}")
    lookaside: str | None = Field(None, description=f"URL under which OpenPGP signatures are kept. {UNAVAILABLE}")

    @model_validator(mode="after")
    def _has_a_key(self) -> KeySettings:
        if self.file is None and self.gpg is None:
            raise ValueError("`file` is required: the PEM file that holds the public key")
        if self.valid_from and self.valid_until and self.valid_from > self.valid_until:
            raise ValueError("`valid_from` is later than `valid_until`, so the key would never count")
        return self


Demand = Literal["required", "none"]


class RootSettings(Model):
    """A root of trust for certificates: a trusted root file, or certificates of one's own."""

    file: FilePath | None = Field(None, description="A Sigstore trusted root, as JSON.")
    ca: tuple[FilePath, ...] = Field((), description="PEM files of certificate authorities, where there is no trusted root.")
    log: Demand | None = Field(None, description="Whether an entry in a transparency log is demanded.")
    sct: Demand | None = Field(None, description="Whether a certificate transparency timestamp is demanded.")
    timestamp: Demand | None = Field(None, description="Whether an RFC 3161 timestamp is demanded.")


def _root_form(value: Any) -> str:
    return "<name>" if isinstance(value, str) else "<root>"


Root = Annotated[
    Annotated[Literal["public-good"], Tag("<name>")] | Annotated[RootSettings, Tag("<root>")], Discriminator(_root_form)
]


class NotationSettings(Model):
    """A Notary Project trust store with its trust policy."""

    ca: tuple[FilePath, ...] = Field(min_length=1, description="PEM files of certificate authorities or signing certificates.")
    tsa: tuple[FilePath, ...] = Field((), description="PEM files of timestamp authorities.")
    identities: tuple[str, ...] = Field((), description="Trusted subjects, such as `x509.subject: C=DE, ST=BE, O=acme`.")


class Trust(Model):
    """Who is believed. Rules refer to what is named here."""

    keys: Annotated[Mapping[Name, KeySettings], EmptyMapping] = Field(
        {}, description="Public keys by name. Refusals and `tagstone verify` use these names."
    )
    roots: Annotated[Mapping[Name, Root], EmptyMapping] = Field(
        {}, description=f"Roots of trust for certificates, by name: `public-good` or a mapping. {UNAVAILABLE}"
    )
    notation: Annotated[Mapping[Name, NotationSettings], EmptyMapping] = Field(
        {}, description=f"Notary Project trust stores, by name. {UNAVAILABLE}"
    )


# -- what a rule requires -------------------------------------------------------------------------------------------


class CertificateIdentity(Model):
    """Who must have signed, by a certificate."""

    root: str = Field(description="Entry of `trust.roots`.")
    issuer: str = Field(description="Issuer of the signer's identity token.")
    identity: str = Field(description="E-mail or URI in the certificate: a pattern over the whole of it.")
    source_repository: str | None = Field(None, description="Pattern for the source repository in the certificate.")
    source_ref: str | None = Field(None, description="Pattern for the source ref in the certificate.")
    owner_id: str | None = Field(None, description="Identifier of the source repository's owner.")
    trigger: str | None = Field(None, description="What started the build.")


class NotationIdentity(Model):
    """Who must have signed, by a Notary Project trust store."""

    store: str = Field(description="Entry of `trust.notation`.")


class SignatureSettings(Model):
    """A signature over the image's manifest, by exactly one kind of signer."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [signer]} for signer in ("key", "keyless", "notation")]},
    )

    key: str | None = Field(None, description="Entry of `trust.keys`.")
    keyless: CertificateIdentity | None = Field(None, description=f"Signer by certificate. {UNAVAILABLE}")
    notation: NotationIdentity | None = Field(None, description=f"Signer by Notary Project trust store. {UNAVAILABLE}")
    docker_reference: Literal["match"] | None = Field(
        None, description=f"Demand that the signature names this very repository. {UNAVAILABLE}"
    )

    @model_validator(mode="after")
    def _one_signer(self) -> SignatureSettings:
        if sum(signer is not None for signer in (self.key, self.keyless, self.notation)) != 1:
            raise ValueError("name one signer: `key`, with the name of an entry under trust.keys")
        return self


class Attester(Model):
    """Who must have made an attestation: a key, or a root with issuer and identity."""

    key: str | None = Field(None, description="Entry of `trust.keys`.")
    root: str | None = Field(None, description="Entry of `trust.roots`.")
    issuer: str | None = Field(None, description="Issuer of the signer's identity token.")
    identity: str | None = Field(None, description="E-mail or URI in the certificate: a pattern over the whole of it.")
    source_repository: str | None = Field(None, description="Pattern for the source repository in the certificate.")
    source_ref: str | None = Field(None, description="Pattern for the source ref in the certificate.")
    owner_id: str | None = Field(None, description="Identifier of the source repository's owner.")
    trigger: str | None = Field(None, description="What started the build.")


class AttestationSettings(Model):
    """An attestation about the image."""

    type: str = Field(description="Predicate type.")
    by: Attester = Field(description="Who must have made it.")
    when: str | None = Field(None, description="Condition on its contents, in CEL.")
    max_age: Duration | None = Field(None, description="How old it may be.")


class SignatureForm(Model):
    """A signature must be found."""

    signature: SignatureSettings = Field(description="Whose signature.")


class AttestationForm(Model):
    """An attestation must be found."""

    attestation: AttestationSettings = Field(description=f"Which attestation, by whom. {UNAVAILABLE}")


class AllForm(Model):
    """Each of these must hold."""

    all: tuple[Require, ...] = Field(min_length=1, description="Each of these must hold.")


class AnyForm(Model):
    """One of these must hold."""

    any: tuple[Require, ...] = Field(min_length=1, description="One of these must hold.")


class AtLeastForm(Model):
    """A number of these must hold, by distinct signers."""

    at_least: int = Field(ge=1, description="How many must hold, by distinct signers: one key named twice counts once.")
    of: tuple[Require, ...] = Field(min_length=1, description="Of these.")

    @model_validator(mode="after")
    def _can_hold(self) -> AtLeastForm:
        if self.at_least > len(self.of):
            raise ValueError(f"asks for {self.at_least} of {len(self.of)}: no image could ever pass")
        return self


_FORMS: Mapping[str, str] = {
    "signature": "<signature>",
    "attestation": "<attestation>",
    "all": "<all>",
    "any": "<any>",
    "at_least": "<at least>",
    "of": "<at least>",
}
_MODELS: Mapping[type[Model], str] = {
    SignatureForm: "<signature>",
    AttestationForm: "<attestation>",
    AllForm: "<all>",
    AnyForm: "<any>",
    AtLeastForm: "<at least>",
}


def _form(value: Any) -> str | None:
    """Which form a requirement is written in; None when it is none of them, or two at once."""
    if isinstance(value, str):
        return "<word>"
    if isinstance(value, dict):
        forms = {_FORMS[key] for key in value if key in _FORMS}
        return forms.pop() if len(forms) == 1 else None
    return _MODELS.get(type(value))


#: What must hold for an image: a word or exactly one of the forms.
Require = Annotated[
    Annotated[Literal["first-use", "deny"], Tag("<word>")]
    | Annotated[SignatureForm, Tag("<signature>")]
    | Annotated[AttestationForm, Tag("<attestation>")]
    | Annotated[AllForm, Tag("<all>")]
    | Annotated[AnyForm, Tag("<any>")]
    | Annotated[AtLeastForm, Tag("<at least>")],
    Discriminator(_form),
]

AllForm.model_rebuild()
AnyForm.model_rebuild()
AtLeastForm.model_rebuild()


# -- rules ----------------------------------------------------------------------------------------------------------


class TagSettings(Model):
    """What may happen to the tags that match."""

    match: str = Field(
        description="Pattern for tags: `*` stands for any text, `?` for one character. The most specific pattern wins."
    )
    on_overwrite: Literal["refuse", "serve-pinned", "rotate"] = Field(
        "refuse",
        description="What a pull is answered while the upstream's tag names another digest than the pin: `refuse` answers 403 "
        "and names both digests, `serve-pinned` answers the pinned digest with a warning. `rotate` is known, but not available "
        "in this version.",
    )
    cooldown: Duration | None = Field(None, description=f"How long `rotate` waits. {UNAVAILABLE}")
    otherwise: Literal["refuse", "serve-pinned"] | None = Field(None, description=f"What `rotate` falls back to. {UNAVAILABLE}")


class RuleSettings(Model):
    """Image pattern → what is required, and what tags may do."""

    match: str = Field(
        description="Pattern for `registry/repository`: `*` stands for any text without `/`, `**` for any text, `?` for one "
        "character. The most specific pattern wins: the longest text before its first wildcard."
    )
    require: Require = Field(
        description="What an image must have: `first-use` (nothing: what is seen first is what the tag means), `deny`, "
        "`{signature: {key: NAME}}`, `{all: [...]}`, `{any: [...]}` or `{at_least: N, of: [...]}`."
    )
    tags: tuple[TagSettings, ...] = Field((), description="What tags may do. Tags that nothing here matches: `refuse`.")
