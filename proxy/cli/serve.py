"""``tagstone serve``: one worker in this process, or several under :mod:`proxy.cli.supervisor`."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.common import REFUSED, USAGE, ConfigOption, DataDirOption, fail, load
from proxy.cli.supervisor import Supervisor, Tie, claim, heed_signals, hold_signals
from proxy.configuration import Configuration
from proxy.configuration import load as load_file
from proxy.errors import ConfigurationError
from proxy.schema import Address
from storage.errors import StorageError

if TYPE_CHECKING:
    from proxy.worker import Worker


def serve(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    listen: Annotated[
        str | None, typer.Option("--listen", help="Listen on this host:port instead of the configured one.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=256, help="Worker processes that share the port.", show_default=False)
    ] = None,
) -> None:
    """Run the proxy until SIGTERM or SIGINT; SIGHUP reads the configuration again."""
    configuration = load(config, data_dir)
    root = data_dir or configuration.settings.data_dir
    if listen is not None:
        try:
            configuration = replace(configuration, listen=Address.parse(listen))
        except ValueError as error:
            fail(f"--listen {listen}: {error}", USAGE)
    count = workers or configuration.settings.workers
    hold_signals()
    if count == 1:
        raise typer.Exit(_work(configuration, root))
    _warn(configuration)
    try:
        for address in (configuration.listen, configuration.admin_listen):
            claim(address.host, address.port)
    except OSError as error:
        raise typer.Exit(_cannot_listen(configuration, error)) from error
    current = configuration

    def reload() -> bool:
        nonlocal current
        found = _read_again(configuration, root)
        current = found or current
        return found is not None

    # A worker that is replaced starts as the others did and decides by what they decide by.
    supervisor = Supervisor(count, lambda tie: _work(configuration, root, tie, current), reload, _log(configuration))
    raise typer.Exit(supervisor.run())


def _log(configuration: Configuration) -> Any:
    """The log, configured. Imported late: listening must not wait for it."""
    import structlog

    from proxy.log import configure

    if not structlog.is_configured():
        configure(configuration.settings.log)
    return structlog.get_logger("tagstone.serve")


def _warn(configuration: Configuration) -> None:
    for warning in configuration.warnings:
        _log(configuration).warning("configuration", problem=str(warning))


def _work(configuration: Configuration, data_dir: Path, tie: Tie | None = None, current: Configuration | None = None) -> int:
    """Be one worker, the only one or one of several; the exit code. ``current`` is what the others have reloaded meanwhile."""
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(configuration, data_dir, tie, current or configuration))
    except StorageError as error:
        _log(configuration).error("cannot start", reason=str(error), data_dir=str(data_dir))
        return REFUSED
    except OSError as error:
        return _cannot_listen(configuration, error)
    return 0


def _cannot_listen(configuration: Configuration, error: OSError) -> int:
    _log(configuration).error("cannot start", reason=str(error), listen=configuration.settings.listen)
    return REFUSED


async def _serve(configuration: Configuration, data_dir: Path, tie: Tie | None, current: Configuration) -> None:
    from proxy.worker import Worker

    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    heed_signals()
    worker = Worker(configuration, data_dir, current, reuse_port=tie is not None)
    await worker.start()
    log = _log(configuration)
    if tie is None:
        _warn(configuration)
    else:
        tie.started()
        loop.add_reader(tie.supervisor, stop.set)
    try:
        while not stop.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (stop, reload)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if reload.is_set():
                reload.clear()
                await _reload(worker, configuration, data_dir)
    finally:
        if tie is not None:
            loop.remove_reader(tie.supervisor)
        log.info("draining")
        await worker.close()


async def _reload(worker: Worker, old: Configuration, data_dir: Path) -> None:
    """Take the configuration over if it checks out; else the old one stays."""
    configuration = await asyncio.to_thread(_read_again, old, data_dir)
    if configuration is not None:
        waiting = worker.application.adopt(configuration)
        _log(old).info("reloaded", file=str(old.path), needs_restart=list(waiting))


def _read_again(old: Configuration, data_dir: Path) -> Configuration | None:
    """What the file says now; None, and the reason in the log, where that does not check out."""
    log = _log(old)
    try:
        return load_file(old.path, data_dir=data_dir)
    except ConfigurationError as error:
        for problem in error.problems:
            log.error("reload.refused", problem=str(problem))
        log.error("reload.refused", reason="the configuration does not check out; the old one stays in force")
        return None
