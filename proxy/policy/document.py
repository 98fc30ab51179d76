"""Trust and rules as the file writes them: what may stand there, before it is known to make sense.

:mod:`proxy.configuration` turns these into the values that decide (:mod:`proxy.policy.rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from proxy.schema import Clock, Duration, EmptyMapping, End, FilePath, Interval, Model, Name, Start, Switch

# -- trust ----------------------------------------------------------------------------------------------------------


class KeySettings(Model):
    """A public key that rules may name: a PEM file, or OpenPGP."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["gpg"]}]})

    file: FilePath | None = Field(
        None,
        description="PEM file with the public key: ECDSA P-256, P-384 or P-521, RSA from 2048 bits, or Ed25519. This or `gpg` is "
        "required.",
    )
    valid_from: Start | None = Field(
        None, description="First moment at which signatures by this key count: a date (its first instant in UTC) or a time."
    )
    valid_until: End | None = Field(
        None, description="Last moment at which signatures by this key count: a date (its last instant in UTC) or a time."
    )
    root: str | None = Field(
        None,
        description="Entry of `trust.roots` whose logs and timestamp authorities prove when a signature by this key was made: "
        "the window is judged at that time. Without it, and where nothing is proven, at the present time.",
    )
    gpg: FilePath | None = Field(
        None,
        description="File with OpenPGP public keys, binary or in ASCII armor, for GPG simple signing (`skopeo copy --sign-by`): "
        "a signature by any of them counts. Needs `pip install 'tagstone[gpg]'`.",
    )
    lookaside: str | None = Field(
        None,
        description="With `gpg`: URL below which the signatures are, as `lookaside` (once `sigstore`) in containers' "
        "`registries.d`. Without it, the registry's own signature API is asked, where it has one.",
    )
    ca: FilePath | None = Field(
        None, description="With `lookaside`: PEM file of certificate authorities, trusted instead of the system's."
    )
    allow_private: Switch | None = Field(
        None,
        description="With `lookaside`: whether it and its redirects may live at loopback, private or link-local addresses, or "
        "speak plain HTTP. Default: `false`.",
    )

    @model_validator(mode="after")
    def _has_a_key(self) -> KeySettings:
        if self.file is None and self.gpg is None:
            raise ValueError("`file` is required: the PEM file that holds the public key; or `gpg`, OpenPGP public keys")
        if self.file is not None and self.gpg is not None:
            raise ValueError("`file` and `gpg` stand side by side; give each a name of its own")
        if self.gpg is None and self.lookaside is not None:
            raise ValueError("`lookaside` goes with `gpg`: other signatures are found in the registry")
        if self.lookaside is None and (self.ca is not None or self.allow_private is not None):
            raise ValueError("`ca` and `allow_private` are about a `lookaside`, and there is none")
        if self.gpg is not None and self.root is not None:
            raise ValueError("`root` goes with `file`: nothing proves when an OpenPGP signature was made")
        if self.valid_from and self.valid_until and self.valid_from > self.valid_until:
            raise ValueError("`valid_from` is later than `valid_until`, so the key would never count")
        return self


Demand = Literal["required", "none"]


class RootSettings(Model):
    """A root of trust for certificates: a trusted root file, one from a TUF repository, or certificates of one's own."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["tuf", "root"]}, {"required": ["ca"]}]}
    )

    file: FilePath | None = Field(None, description="A Sigstore trusted root, as JSON.")
    tuf: str | None = Field(
        None, description="Address of a TUF repository that holds a Sigstore trusted root, such as `https://tuf-repo.github.com`."
    )
    root: FilePath | None = Field(
        None, description="The repository's `root.json`, by which it is first believed. Required beside `tuf`."
    )
    target: str | None = Field(None, description="Which of its targets is the trusted root. Default: `trusted_root.json`.")
    ca: tuple[FilePath, ...] = Field((), description="PEM files of certificate authorities, where there is no trusted root.")
    tsa: tuple[FilePath, ...] = Field((), description="PEM files of timestamp authorities, beside `ca`.")
    log: Demand | None = Field(
        None,
        description="Whether an entry in one of the root's transparency logs is demanded. Default: `required` with `file` "
        "and `tuf`, `none` with `ca`.",
    )
    sct: Demand | None = Field(
        None,
        description="Whether the certificate must have been logged when it was issued (certificate transparency). Default: as "
        "for `log`.",
    )
    timestamp: Demand | None = Field(
        None, description="Whether a timestamp by one of the root's authorities is demanded (RFC 3161). Default: `none`."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> RootSettings:
        if (self.file is not None) + (self.tuf is not None) + bool(self.ca) != 1:
            raise ValueError(
                "give either `file`, a Sigstore trusted root, or `tuf`, a repository that holds one, or `ca`, PEM files of "
                "certificate authorities"
            )
        if self.tsa and not self.ca:
            raise ValueError("`tsa` goes with `ca`: a trusted root names its timestamp authorities itself")
        if self.tuf is not None and self.root is None:
            raise ValueError("`root` is required beside `tuf`: the repository's `root.json`, got by a way that you trust")
        if self.tuf is None and (self.root is not None or self.target is not None):
            raise ValueError("`root` and `target` go with `tuf`, the address of a TUF repository")
        return self


def _root_form(value: Any) -> str:
    return "<name>" if isinstance(value, str) else "<root>"


Root = Annotated[
    Annotated[Literal["public-good"], Tag("<name>")] | Annotated[RootSettings, Tag("<root>")], Discriminator(_root_form)
]


class NotationSettings(Model):
    """A Notary Project trust store with its trust policy."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["ca"]}, {"required": ["signing_authority"]}]})

    ca: tuple[FilePath, ...] = Field((), description="PEM files of certificate authorities or signing certificates.")
    signing_authority: tuple[FilePath, ...] = Field(
        (), description="PEM files of authorities that sign for others, and are believed about the time of signing."
    )
    tsa: tuple[FilePath, ...] = Field((), description="PEM files of timestamp authorities (self-issued root certificates).")
    identities: tuple[str, ...] = Field((), description="Trusted subjects, such as `x509.subject: C=DE, ST=BE, O=acme`.")
    revocation: Literal["skip", "log", "enforce"] = Field(
        "log",
        description="What is done about revoked certificates (OCSP, lists). `skip`: nobody is asked. `log`: what is found is "
        "logged and explained, and decides nothing. `enforce`: a revoked certificate is refused, and where nobody answers there "
        "is no verdict, so that the pull is to be tried again.",
    )
    allow_private: Switch = Field(
        False,
        description="Whether the revocation servers that its certificates name may live at loopback, private or link-local "
        "addresses.",
    )

    @model_validator(mode="after")
    def _trusts_somebody(self) -> NotationSettings:
        if not self.ca and not self.signing_authority:
            raise ValueError("give `ca`, PEM files of certificate authorities or signing certificates, or `signing_authority`")
        return self


class Trust(Model):
    """Who is believed. Rules refer to what is named here."""

    keys: Annotated[Mapping[Name, KeySettings], EmptyMapping] = Field(
        {}, description="Public keys by name. Refusals and `tagstone verify` use these names."
    )
    roots: Annotated[Mapping[Name, Root], EmptyMapping] = Field(
        {},
        description="Roots of trust for certificates, by name: `public-good` (that of sigstore.dev, which comes with this "
        "version and is refreshed by TUF) or a mapping.",
    )
    refresh: Interval = Field(
        86400.0,
        description="How often a running server asks TUF repositories for newer roots, give or take a tenth. `never`: not at "
        "all; `tagstone trust update` still asks.",
    )
    freshness: Demand = Field(
        "none",
        description="Whether new decisions by a root of a TUF repository need metadata that has not expired. `none`: while the "
        "repository cannot be reached, the last good root counts on.",
    )
    notation: Annotated[Mapping[Name, NotationSettings], EmptyMapping] = Field(
        {}, description="Notary Project trust stores, by name."
    )


# -- what a rule requires -------------------------------------------------------------------------------------------


class CertificateClaims(Model):
    """What else a certificate may have to say. Values are patterns over the whole, as for `identity`."""

    source_repository: str | None = Field(None, description="URI of the source repository.")
    source_ref: str | None = Field(None, description="Ref of the source, such as `refs/tags/v*`.")
    source_repository_id: str | None = Field(None, description="Identifier of the source repository; a rename leaves it alone.")
    owner: str | None = Field(None, description="URI of the source repository's owner.")
    owner_id: str | None = Field(None, description="Identifier of the source repository's owner.")
    build_config: str | None = Field(None, description="URI of the build's configuration, such as the calling workflow.")
    runner: str | None = Field(None, description="Kind of the machine that built, such as `github-hosted`.")
    trigger: str | None = Field(None, description="What started the build, such as `push`.")


_IDENTITY = "E-mail address or URI in the certificate: a pattern over the whole of it. `*` stops at `/`, `**` does not."
_IDENTITY_RE2 = "In place of `identity`: a regular expression (RE2) over the whole of it."


class CertificateIdentity(CertificateClaims):
    """Who must have signed, by a certificate."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["identity"]}, {"required": ["identity_re2"]}]})

    root: str = Field(description="Entry of `trust.roots`.")
    issuer: str = Field(description="Issuer of the signer's identity token, in full.")
    identity: str | None = Field(None, description=_IDENTITY)
    identity_re2: str | None = Field(None, description=_IDENTITY_RE2)

    @model_validator(mode="after")
    def _one_identity(self) -> CertificateIdentity:
        if (self.identity is None) == (self.identity_re2 is None):
            raise ValueError("write `identity`, a pattern, or `identity_re2`, a regular expression")
        return self


class NotationIdentity(Model):
    """Who must have signed, by a Notary Project trust store."""

    store: str = Field(description="Entry of `trust.notation`.")


class SignatureSettings(Model):
    """A signature over the image's manifest, by exactly one kind of signer."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [signer]} for signer in ("key", "keyless", "notation")]},
    )

    key: str | None = Field(None, description="Entry of `trust.keys`.")
    keyless: CertificateIdentity | None = Field(None, description="Signer by certificate.")
    notation: NotationIdentity | None = Field(None, description="Signer by Notary Project trust store.")
    docker_reference: Literal["match"] | None = Field(
        None,
        description="`match`: the signature must name this very repository (cosign signatures do; other formats name none, and "
        "are refused then). Without it the digest alone counts, so that images may be copied. OpenPGP signatures must name it "
        "in any case.",
    )

    @model_validator(mode="after")
    def _one_signer(self) -> SignatureSettings:
        if sum(signer is not None for signer in (self.key, self.keyless, self.notation)) != 1:
            raise ValueError("name one signer: `key`, `keyless` or `notation`")
        return self


class Attester(CertificateClaims):
    """Who must have made an attestation: a key, or a root with issuer and identity."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["key"]}, {"required": ["root", "issuer"]}]})

    key: str | None = Field(None, description="Entry of `trust.keys`.")
    root: str | None = Field(None, description="Entry of `trust.roots`.")
    issuer: str | None = Field(None, description="Issuer of the signer's identity token, in full.")
    identity: str | None = Field(None, description=_IDENTITY)
    identity_re2: str | None = Field(None, description=_IDENTITY_RE2)

    @model_validator(mode="after")
    def _one_signer(self) -> Attester:
        by_certificate = self.model_fields_set - {"key"}
        if self.key is not None and by_certificate:
            raise ValueError(f"`key` stands alone; remove {', '.join(f'`{name}`' for name in sorted(by_certificate))}")
        if self.key is None and (self.root is None or self.issuer is None):
            raise ValueError("name the signer: `key`, or `root` with `issuer` and `identity`")
        if self.key is None and (self.identity is None) == (self.identity_re2 is None):
            raise ValueError("write `identity`, a pattern, or `identity_re2`, a regular expression")
        return self


class AttestationSettings(Model):
    """An attestation about the image."""

    type: str = Field(description="Predicate type, in full, as the signed statement says it.")
    by: Attester = Field(description="Who must have made it.")
    when: str | None = Field(None, description="Condition on its contents, in CEL, over `statement` and `predicate`.")
    max_age: Duration | None = Field(
        None,
        description="How long ago it may have been signed. The time must be proven, by log entry or timestamp: a key needs a "
        "`root` for that, whose logs and authorities strangers cannot use, or an old attestation can be logged anew.",
    )
    on: Literal["index", "platform", "either"] = Field(
        "index",
        description="Where an image has several platforms: `index` wants an attestation about the manifest that is pulled, "
        "`platform` one about each manifest that the index lists, `either` one or the other.",
    )


class SignatureForm(Model):
    """A signature must be found."""

    signature: SignatureSettings = Field(description="Whose signature.")


class AttestationForm(Model):
    """An attestation must be found."""

    attestation: AttestationSettings = Field(description="Which attestation, by whom.")


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


class WindowSettings(Model):
    """When pins may rotate. A candidate that is due outside of it waits until it opens; the pinned digest is served."""

    model_config = ConfigDict(serialize_by_alias=True)

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        ("mon", "tue", "wed", "thu", "fri", "sat", "sun"), min_length=1, description="Days on which it opens."
    )
    start: Clock = Field("00:00", alias="from", description="When it opens, on a wall clock in `timezone`.")
    end: Clock = Field(
        "24:00",
        alias="to",
        description="When it closes; where that is earlier than `from`, on the day after. `24:00` is midnight.",
    )
    timezone: str = Field("UTC", description="Name of a time zone, such as `Europe/Berlin`, with its summer time.")


class TagSettings(Model):
    """What may happen to the tags that match."""

    match: str = Field(
        description="Pattern for tags: `*` stands for any text, `?` for one character. The most specific pattern wins."
    )
    on_overwrite: Literal["refuse", "serve-pinned", "rotate"] = Field(
        "refuse",
        description="What a pull is answered while the upstream's tag names another digest than the pin: `refuse` answers 403 "
        "and names both digests, `serve-pinned` answers the pinned digest with a warning. `rotate` moves the pin when the new "
        "digest passes its rule, its cooldown is over, and all else holds that is asked for below; the pinned digest is served "
        "until then ([rotation.md](rotation.md)).",
    )
    cooldown: Duration | None = Field(
        None,
        description="With `rotate`: how long a new digest waits, from the moment it was first seen. `0s`: until it is judged. "
        "Default: `72h`.",
    )
    signer: Literal["same", "any"] | None = Field(
        None,
        description="With `rotate`: who may vouch for the new digest. `same`: those who vouched for the pinned one; another "
        "signer needs an approval. `any`: whoever the rule accepts. Default: `same`.",
    )
    otherwise: Literal["refuse", "serve-pinned"] | None = Field(
        None,
        description="With `rotate`: what is answered while the new digest fails its rule, is by another signer, was rejected, or "
        "waits for approvals. Default: `refuse`.",
    )
    approvers: int | None = Field(
        None,
        ge=0,
        le=2,
        description="How many people must approve a new digest (`tagstone pins approve`) before the pin moves. Default: `0` with "
        "`rotate`, else `1`.",
    )
    window: WindowSettings | None = Field(None, description="With `rotate`: pins move within it only. Default: at any time.")
    stale_after: Duration | None = Field(
        None,
        description="With `rotate`: how long after its cooldown a new digest may wait for approvals or the window until that is "
        "told (`pin.stale`). Default: `7d`.",
    )


class RuleSettings(Model):
    """Image pattern → what is required, and what tags may do."""

    match: str = Field(
        description="Pattern for `registry/repository`: `*` stands for any text without `/`, `**` for any text, `?` for one "
        "character. The most specific pattern wins: the longest text before its first wildcard."
    )
    require: Require = Field(
        description="What an image must have: `first-use` (nothing: what is seen first is what the tag means), `deny`, "
        "`{signature: {...}}`, `{attestation: {...}}`, `{all: [...]}`, `{any: [...]}` or `{at_least: N, of: [...]}`."
    )
    tags: tuple[TagSettings, ...] = Field((), description="What tags may do. Tags that nothing here matches: `refuse`.")
