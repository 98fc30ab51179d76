"""``tagstone access``: tokens for robots, and what somebody may pull."""

from __future__ import annotations

import hashlib
from typing import Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, JsonOption

app = typer.Typer(no_args_is_help=True, help="Who may pull.")


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Name of the token, which logs and rules show as token:NAME.")],
    as_json: JsonOption = False,
) -> None:
    """Make a token, and the line for the configuration that lets it in. The token itself is kept nowhere."""
    from proxy.schema import check_name
    from proxy.services.credentials import new_token

    try:
        check_name(name)
    except ValueError as error:
        common.fail(f"{name!r} {error}", common.USAGE)
    text = new_token()
    hashed = hashlib.sha256(text.encode()).hexdigest()
    if as_json:
        common.show_json({"name": name, "token": text, "sha256": hashed})
        return
    print(f"The token, shown this once; as a password its user name is {name}:\n\n  {text}\n")
    print(f"For the configuration, under access.tokens (or admin.tokens):\n\n  {name}: {{sha256: {hashed}}}")


@app.command()
def check(
    who: Annotated[str, typer.Argument(help="A principal: anonymous, user:alice, token:ci, certificate:NAME, oidc:ISSUER:NAME.")],
    image: Annotated[str, typer.Argument(help="Name of an image.")],
    address: Annotated[str | None, typer.Option("--from", help="The address that they ask from.", show_default=False)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether somebody may pull an image's repository. Exit 0: yes; 1: no; 2: usage or configuration."""
    from proxy.policy.access import Kind, Principal

    configuration = common.load(config)
    repository = common.parse_reference(image, configuration).repository
    kind, colon, name = who.partition(":")
    if kind not in set(Kind) or bool(colon) == (kind == Kind.ANONYMOUS) or (colon and not name):
        common.fail(
            f"{who!r} is no principal: write anonymous, user:NAME, token:NAME, certificate:NAME or oidc:ISSUER:NAME", common.USAGE
        )
    principal, rules = Principal(Kind(kind), name), configuration.access.rules
    allowed = rules is None or rules.allows(principal, address, repository)
    if as_json:
        common.show_json({"who": str(principal), "from": address, "repository": str(repository), "allowed": allowed})
    elif rules is None:
        print(f"yes: there is no access section, so everybody may pull from {repository} what the rules let through")
    elif allowed:
        print(f"yes: {principal} may pull from {repository}")
    else:
        place = "" if address is None else f" from {address}"
        hint = "; a rule with networks needs --from" if address is None and any(rule.networks for rule in rules.rules) else ""
        print(f"no: no access rule lets {principal} pull from {repository}{place}{hint}")
    raise typer.Exit(0 if allowed else common.REFUSED)
