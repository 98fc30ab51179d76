"""``tagstone config``: check the file, show what it comes to, print its JSON Schema."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, JsonOption
from proxy.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from proxy.configuration import Configuration
    from proxy.policy.rules import Rule
    from storage.reference import Reference

app = typer.Typer(no_args_is_help=True, help="Check and show the configuration, print its JSON Schema.")


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the file and the files it names. Ends with 0 when it can be used (warnings or not), with 2 when it cannot."""
    from proxy import configuration

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    path, summary = None, ""
    try:
        path = configuration.find(config)
        loaded = configuration.load(path)
        warnings = loaded.warnings
        own = len(loaded.rules) - len(loaded.pages)
        keys = len(loaded.settings.trust.keys)
        counts = [(own, "rule"), (len(loaded.upstreams), "upstream"), (keys, "key")]
        if loaded.settings.extends:
            counts.append((len(loaded.pages), "well-known rule"))
        summary = f"{path} checks out: {', '.join(_count(number, word) for number, word in counts)}"
    except ConfigurationError as error:
        problems = error.problems
    if as_json:
        found = {"errors": [_problem(each) for each in problems], "warnings": [_problem(each) for each in warnings]}
        common.show_json({"file": None if path is None else str(path), "valid": not problems, **found})
    else:
        for each in problems:
            print(each, file=sys.stderr)
        for each in warnings:
            print(f"{each} (warning)", file=sys.stderr)
        if problems:
            common.fail(f"the configuration does not check out: {_count(len(problems), 'error')}", common.USAGE)
        print(summary + (f"; {_count(len(warnings), 'warning')}" if warnings else ""))
    if problems:
        raise typer.Exit(common.USAGE)


@app.command()
def show(
    rule: Annotated[
        str | None,
        typer.Option("--rule", metavar="IMAGE", help="Show which rule this image comes under, and why.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the configuration with its defaults filled in, as YAML that can be read back. Secrets are masked."""
    configuration = common.load(config)
    if rule is not None:
        _show_rule(configuration, common.parse_reference(rule, configuration), as_json=as_json)
    elif as_json:
        common.show_json(effective(configuration))
    else:
        import yaml

        print(yaml.safe_dump(effective(configuration), sort_keys=False, allow_unicode=True, width=120), end="")


@app.command()
def schema(config: ConfigOption = None) -> None:
    """Print the JSON Schema of the file (draft 2020-12), for editors. It is the same for every file."""
    del config  # taken because every command takes it
    from proxy.configuration.schema import json_schema

    common.show_json(json_schema())


def effective(configuration: Configuration) -> dict[str, Any]:
    """What the file comes to: every key with its value, names canonical, endpoints filled in, secrets masked."""
    from proxy.upstream.registries import Endpoint

    shown: dict[str, Any] = configuration.settings.model_dump(mode="json", exclude_none=True)
    shown["default_registry"] = configuration.default_registry
    shown["hosts"] = dict(configuration.hosts)
    shown["upstreams"] = {
        name: {"url": str(Endpoint.of(name, upstream).url), **upstream.model_dump(mode="json", exclude_none=True)}
        for name, upstream in configuration.upstreams.items()
    }
    return shown


def _show_rule(configuration: Configuration, reference: Reference, *, as_json: bool) -> None:
    from proxy.policy.patterns import most_specific
    from proxy.policy.rules import DEFAULT_RULE, match

    repository = reference.repository
    lines = dict(zip(map(id, configuration.rules), configuration.rule_lines, strict=True))
    matching = [each for each in configuration.rules if each.pattern.matches(str(repository))]
    matching.sort(key=lambda each: each.pattern.specificity, reverse=True)
    chosen = match(configuration.rules, repository)
    configured = repository.registry in configuration.upstreams
    tag = None if reference.tag is None or reference.digest is not None else reference.tag
    tag_rule = None if tag is None else most_specific(chosen.tags, tag)

    def described(each: Rule) -> dict[str, object]:
        prefix, literals, doubles, stars, marks = each.pattern.specificity
        specificity = {"before_wildcard": prefix, "literal": literals, "**": -doubles, "*": -stars, "?": marks}
        place = {"line": lines.get(id(each)), "page": configuration.pages.get(each.pattern.text)}
        return {"match": each.pattern.text, **place, "characters": specificity}

    if as_json:
        common.show_json(
            {
                "image": str(reference),
                "upstream": configured,
                "rule": None if chosen is DEFAULT_RULE else described(chosen),
                "require": str(chosen.require),
                "on_overwrite": None if tag is None else chosen.on_overwrite(tag).value,
                "tag_pattern": None if tag_rule is None else tag_rule.pattern.text,
                "matching": [described(each) for each in matching],
            }
        )
        return
    print(reference)
    if not configured:
        print(f"  upstream   none: {repository.registry} is not configured, so every pull is refused")
    if chosen is DEFAULT_RULE:
        print("  rule       none matches, so every pull is refused")
        return
    print(f"  rule       {_place(configuration, chosen, lines)}")
    print(f"  requires   {chosen.require}")
    if (page := configuration.pages.get(chosen.pattern.text)) is not None:
        print(f"  known by   {page}")
    if tag is not None:
        why = "no tag pattern matches" if tag_rule is None else f'tag pattern "{tag_rule.pattern.text}"'
        print(f"  overwrite  {chosen.on_overwrite(tag).value} ({why})")
    if len(matching) > 1:
        print("  because    it is the most specific of those that match:")
        for each in matching:
            prefix, literals, *_ = each.pattern.specificity
            print(
                f"               {_place(configuration, each, lines)}: {prefix} characters before a wildcard, {literals} in all"
            )
    else:
        print("  because    no other rule matches")


def _place(configuration: Configuration, rule: Rule, lines: dict[int, int]) -> str:
    line = lines.get(id(rule))
    return f'"{rule.pattern.text}" ({"built in" if line is None else f"{configuration.path}:{line}"})'


def _problem(problem: Problem) -> dict[str, object]:
    return {"line": problem.line or None, "key": problem.key or None, "message": problem.message}


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
