"""Alerts as the file writes them: what may stand under ``alerts``, before it is known to make sense.

:mod:`proxy.configuration.alerts` turns these into the values of :mod:`proxy.policy.alerts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, model_validator

from proxy.policy.alerts import Digest
from proxy.schema import EmptyMapping, FilePath, Model, Name, Timeout


def _mask(text: str) -> str:
    """Without what may be a secret: the user, and what stands behind the path."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "***"
    user = "***@" if "@" in parts.netloc else ""
    query = "?***" if parts.query else ""
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def _check_digest(text: str) -> str:
    return str(Digest.parse(text))


#: An address that may hold a user or a query: these are never shown.
SinkUrl = Annotated[str, PlainSerializer(_mask, return_type=str, when_used="json")]
DigestTime = Annotated[str, AfterValidator(_check_digest), Field(json_schema_extra={"examples": ["daily at 08:00"]})]


class HttpSettings(Model):
    """What sinks that are asked by HTTP have in common."""

    url: SinkUrl | None = Field(
        None,
        repr=False,
        description="Address, `https://` or `http://`. Private networks are allowed; redirects are not followed.",
    )
    url_file: FilePath | None = Field(None, description="File that holds the address instead, where it is a secret.")
    url_env: str | None = Field(None, description="Environment variable that holds the address instead.")
    bearer_file: FilePath | None = Field(None, description="File with a token that is shown as `Authorization: Bearer`.")
    bearer_env: str | None = Field(None, description="Environment variable with such a token.")
    ca: FilePath | None = Field(None, description="PEM file of certificate authorities, trusted instead of the system's.")


class CloudEventsSettings(HttpSettings):
    """CloudEvents 1.0 by HTTP POST, as JSON, signed in the way of Standard Webhooks."""

    secret_file: FilePath | None = Field(
        None,
        description="File with the secret that signs: `whsec_…` (HMAC-SHA256) or `whsk_…` (Ed25519). While it is replaced, the "
        "old and the new one, one a line: messages carry a signature by each. Read again at each message.",
    )
    secret_env: str | None = Field(None, description="Environment variable that holds it, or them, apart by blanks.")


class AlertmanagerSettings(HttpSettings):
    """Prometheus Alertmanager (API v2); `url` is without `/api/v2/alerts`. Of a cluster, each member is a sink of its own."""

    resend: Timeout = Field(
        60.0, description="How often events that are open are sent again. Unsent for four times as long, they end."
    )
    hold: Timeout = Field(
        900.0,
        description="How long something that has no end, such as `tag.created`, counts as open there. Longer than `group_wait`.",
    )
    labels: Annotated[Mapping[str, str], EmptyMapping] = Field({}, description="Labels that every alert gets besides its own.")


class AppriseSettings(Model):
    """Slack, Teams, mail, PagerDuty and others, by URLs that apprise knows. Needs `pip install 'tagstone[apprise]'`."""

    urls_file: FilePath | None = Field(
        None, description="File with the URLs, one a line; lines that begin with `#` are comments."
    )
    urls_env: str | None = Field(None, description="Environment variable that holds them, apart by blanks.")


class SinkSettings(Model):
    """One place that alerts are sent to. Exactly one of `cloudevents`, `alertmanager` and `apprise` says of which kind."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["cloudevents"]}, {"required": ["alertmanager"]}, {"required": ["apprise"]}],
        }
    )

    cloudevents: CloudEventsSettings | None = Field(None, description="CloudEvents by HTTP.")
    alertmanager: AlertmanagerSettings | None = Field(None, description="Prometheus Alertmanager.")
    apprise: AppriseSettings | None = Field(None, description="Services for people.")
    types: tuple[str, ...] = Field((), description="Only events of types that match one of these, such as `tag.*`.")
    severity: Literal["info", "warning", "critical"] = Field("info", description="Only events that matter so much at least.")
    images: tuple[str, ...] = Field(
        (),
        description="Of events about images, only those about images that match one of these, such as `docker.io/library/**`. "
        "Events about anything else are not concerned.",
    )
    digest: DigestTime | None = Field(
        None,
        description="With `apprise`: one message with all that came since the last, `daily at 08:00`, `weekly at 08:00` (on "
        "Mondays) or `weekly on friday at 08:00`, in UTC. Without it, one message for each event.",
    )
    timeout: Timeout = Field(15.0, description="Longest time for one attempt.")

    @model_validator(mode="after")
    def _has_one_kind(self) -> SinkSettings:
        kinds = [kind for kind in ("cloudevents", "alertmanager", "apprise") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            found = " and ".join(f"`{kind}`" for kind in kinds) or "none of them"
            raise ValueError(f"is of one kind: `cloudevents`, `alertmanager` or `apprise`; here is {found}")
        if self.digest is not None and self.apprise is None:
            raise ValueError("`digest` is for people and goes with `apprise`; programs are told of each event")
        return self


class AlertsSettings(Model):
    """Who is told of events."""

    source: str = Field(
        "/tagstone",
        description="What events say they come from (`source` of CloudEvents): best the address of this proxy, which "
        "Alertmanager then links to.",
    )
    give_up: Timeout = Field(7 * 86400.0, description="How long an alert is tried, before it counts as failed.")
    keep: Timeout = Field(
        7 * 86400.0, description="How long is kept what became of an alert; until then, what failed can be tried again."
    )
    history: Timeout = Field(
        365 * 86400.0,
        description="How long events are kept after their end, with or without sinks: what `tagstone alerts list` shows.",
    )
    sinks: Annotated[Mapping[Name, SinkSettings], EmptyMapping] = Field({}, description="Where alerts are sent to, by names.")
