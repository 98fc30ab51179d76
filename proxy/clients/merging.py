"""Files that belong to others: what Tagstone needs is added without a loss, or nothing is done and a person told what to do.

JSON is merged key by key. TOML is edited as text, so that comments stay, and the result is read again: it must say exactly what
was there and what was wanted, or it is not used. Pure: text in, text out.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from proxy.clients.model import File, Owner
from proxy.clients.templates import toml_literal

#: Begins the first line of everything that Tagstone writes into formats with comments.
MARK = "# Written by `tagstone client "
_ACCEPT: list[dict[str, str]] = [{"type": "insecureAcceptAnything"}]
_REJECT: list[dict[str, str]] = [{"type": "reject"}]
_CRI = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
#: What ``disabled_plugins`` may call it: by the short name in version 1, which Docker's package of containerd has.
_CRI_NAMES = ("cri", *_CRI)


class CannotMerge(Exception):
    """The file stays as it is; ``str(error)`` says what to change in it by hand."""


def merge(file: File, existing: str) -> tuple[str, tuple[str, ...]]:
    """What the file becomes where ``existing`` is there, and warnings about it. Raises :class:`CannotMerge`."""
    match file.owner:
        case Owner.TAGSTONE:
            return file.content, ()
        case Owner.DAEMON_JSON:
            return _daemon(file, existing)
        case Owner.POLICY_JSON:
            return _policy(file, existing)
        case Owner.TOML:
            return _toml(file, existing)
        case Owner.OTHERS:
            if existing.startswith(MARK) or not existing.strip():
                return file.content, ()
            raise CannotMerge(f"it is somebody else's, and there is no safe way to add to it; take over by hand:\n{file.content}")


# -- JSON -----------------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _read_json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_object) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise CannotMerge(f"it is no JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise CannotMerge("it is no JSON object")
    return found


def _write_json(document: dict[str, Any], existing: str) -> str:
    """With the indentation that was there."""
    found = re.search(r"^([ \t]+)\S", existing, re.MULTILINE)
    return json.dumps(document, indent=found[1] if found else 2, ensure_ascii=False) + "\n"


def _daemon(file: File, existing: str) -> tuple[str, tuple[str, ...]]:
    old, wanted = _read_json(existing), _read_json(file.content)
    new = copy.deepcopy(old)
    for key, value in wanted.items():
        if isinstance(value, list):
            there = new.setdefault(key, [])
            if not isinstance(there, list):
                raise CannotMerge(f"{key} is no list; it must hold {json.dumps(value)}")
            there += [each for each in value if each not in there]
        else:
            there = new.setdefault(key, {})
            if not isinstance(there, dict):
                raise CannotMerge(f"{key} is no object; it must hold {json.dumps(value)}")
            for name, setting in value.items():
                if there.setdefault(name, setting) != setting:
                    raise CannotMerge(f"{key}.{name} is {json.dumps(there[name])}; it must be {json.dumps(setting)}")
    warnings = []
    if mirrors := old.get("registry-mirrors"):
        told = "is kept, but whatever these mirrors refuse dockerd asks Docker Hub for: remove the key"
        warnings.append(f"registry-mirrors in daemon.json ({json.dumps(mirrors)}) {told}")
    return (existing if new == old else _write_json(new, existing)), tuple(warnings)


def _policy(file: File, existing: str) -> tuple[str, tuple[str, ...]]:
    """Reject by default, our scopes allowed, all others kept."""
    old, wanted = _read_json(existing), _read_json(file.content)
    if old.get("default", _ACCEPT) not in (_ACCEPT, _REJECT):
        told = json.dumps(old["default"])
        raise CannotMerge(f'its default asks for something of every image ({told}), which [{{"type": "reject"}}] would take away')
    new = copy.deepcopy(old)
    new["default"] = _REJECT
    transports = new.setdefault("transports", {})
    ours = wanted["transports"]["docker"]
    scopes = transports.setdefault("docker", {}) if isinstance(transports, dict) else None
    if not isinstance(scopes, dict):
        raise CannotMerge("its transports are no objects")
    if scopes.get("", _REJECT) != _REJECT:
        raise CannotMerge('transports.docker has a scope "" that allows every registry; remove it')
    kept = [scope for scope in scopes if scope not in ours and scope]
    for scope, requirement in ours.items():
        scopes.setdefault(scope, requirement)
    warnings = []
    if kept:
        told = "what of that is not under a registry sent to Tagstone is pulled from elsewhere"
        warnings.append(f"policy.json goes on to allow what its own scopes say ({', '.join(sorted(kept))}); {told}")
    return (existing if new == old else _write_json(new, existing)), tuple(warnings)


# -- TOML -----------------------------------------------------------------------------------------------------------


def _read_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CannotMerge(f"it is no TOML that can be read: {error}") from error


def _toml(file: File, existing: str) -> tuple[str, tuple[str, ...]]:
    if not existing.strip():
        return file.content, ()
    old = _read_toml(existing)
    form = file.content
    if file.forms:
        if disabled := set(_CRI_NAMES) & set(_strings(old.get("disabled_plugins"))):
            told = f"config.toml disables the CRI plugin ({', '.join(sorted(disabled))}), so it got no config_path"
            return existing, (told,)
        version = old.get("version", 1)
        if version not in file.forms:
            raise CannotMerge(
                f"it has version {version}, and registries can be configured from version {min(file.forms)} on: rewrite it by "
                "`containerd config migrate`, or where only nerdctl and ctr pull leave it to `tagstone client nerdctl`"
            )
        form = file.forms[version]
        _check_containerd(old)
    expected, missing = _wanted(old, form)
    if not missing:
        return existing, ()
    for candidate in _candidates(existing, missing):
        try:
            if tomllib.loads(candidate) == expected:
                return candidate, ()
        except tomllib.TOMLDecodeError:
            continue
    raise CannotMerge(f"there is no safe way to add to it; take over by hand:\n{_tables(missing)}")


def _wanted(old: dict[str, Any], form: str) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], Any]]]:
    """What the file must say afterwards, and which settings of it are missing."""
    wanted = tomllib.loads(form)
    wanted.pop("version", None)
    expected = copy.deepcopy(old)
    missing: list[tuple[tuple[str, ...], Any]] = []
    for path, value in _leaves(wanted):
        table = expected
        for step in path[:-1]:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise CannotMerge(f"{'.'.join(path)} must be {toml_literal(value)}, but {step} is no table")
        there = table.get(path[-1])
        if there == value:
            continue
        if there not in (None, ""):
            raise CannotMerge(f"{'.'.join(path)} is {there!r}; it must be {toml_literal(value)}")
        table[path[-1]] = value
        missing.append((path, value))
    return expected, missing


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _check_containerd(old: dict[str, Any]) -> None:
    """With a config_path, containerd does not start its CRI plugin where the older tables are there, too."""
    for plugin in _CRI:
        for key in ("mirrors", "configs"):
            if _table_at(old, "plugins", plugin, "registry", key):
                told = "stands in the way: CRI does not start with both this and config_path; remove it"
                raise CannotMerge(f'[plugins."{plugin}".registry.{key}] {told}')


def _table_at(table: object, *path: str) -> object:
    for step in path:
        table = table.get(step) if isinstance(table, dict) else None
    return table


def _leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _tables(settings: list[tuple[tuple[str, ...], Any]]) -> str:
    lines: list[str] = []
    last: tuple[str, ...] = ()
    for path, value in settings:
        if path[:-1] != last:
            last = path[:-1]
            lines.append(f"\n[{'.'.join(key if key.isalnum() else toml_literal(key) for key in last)}]")
        lines.append(f"{path[-1]} = {toml_literal(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _candidates(existing: str, missing: list[tuple[tuple[str, ...], Any]]) -> Iterator[str]:
    """Ways to add the settings: as tables at the end, or a single one for an empty string or below its header."""
    end = "" if existing.endswith("\n") else "\n"
    yield f"{existing}{end}\n{_tables(missing)}"
    if len(missing) != 1:
        return
    ((*tables, key), value) = missing[0]  # everything that Tagstone needs is in tables
    empty = re.compile(rf"^([ \t]*{re.escape(key)}[ \t]*=[ \t]*)(?:\"\"|'')", re.MULTILINE)
    for found in empty.finditer(existing):
        yield f"{existing[: found.start()]}{found[1]}{toml_literal(value)}{existing[found.end() :]}"
    header = re.compile(rf"^[ \t]*\[[^\n]*{re.escape(tables[-1])}[\"']?\][^\n]*\n", re.MULTILINE)
    for found in header.finditer(existing):
        yield f"{existing[: found.end()]}{key} = {toml_literal(value)}\n{existing[found.end() :]}"
