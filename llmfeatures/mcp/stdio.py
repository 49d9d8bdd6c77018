"""``llmfeatures mcp`` over standard input and output: one session, of the program that started this one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmfeatures.errors import ConfigError
from llmfeatures.mcp.binding import binding_of
from llmfeatures.project import Project
from llmfeatures.service.log import LogFormat, RequestLog

if TYPE_CHECKING:
    from mcp.server import Server

    from llmfeatures.mcp.server import Traffic

NOT_INSTALLED: Final = "llmfeatures mcp needs the MCP SDK; pip install 'llmfeatures[mcp]'"
_PATIENCE: Final = 5.0
"""Seconds that what was asked may take once the process was told to stop."""
_TICK: Final = 0.02
_STOPPED: Final = 0
_INTERRUPTED: Final = 130


def run(root: Path, *, bind: Sequence[str], opened: Sequence[str], working: bool, log: LogFormat | None) -> None:
    """Serve one session until its input ends, or on SIGTERM or Ctrl-C.

    Args:
        root: a folder in the project.
        bind: ``KEY=VALUE`` of each join key that is bound.
        opened: join keys of which tools may be asked for any value.
        working: the files as they are now; else the active release, and the files when there is none.
        log: the format of the lines on stderr; None: that of ``[serve]``.

    Raises:
        ConfigError: the SDK is not installed.
        RequestError: a binding is wrong.
        ReleaseError: the active release cannot be rendered here.
    """
    try:
        from llmfeatures.mcp.logs import take_over
        from llmfeatures.mcp.offer import Offer
        from llmfeatures.mcp.server import Session, Traffic, make_server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigError(NOT_INSTALLED) from None
    project = Project.load(root)
    lines, traffic = _Lines(log or project.config.serve.log), Traffic()
    binding = binding_of(project.registry, bind, opened)
    released = not working and project.releases.active_id() is not None
    builder = project.async_builder(reload=not released, release="active" if released else None)
    name = project.config.project.name

    def session(_: Any) -> Session:
        return Session(Offer(name, builder, binding, None), None)

    async def serve() -> None:
        try:
            await _serve(make_server(name, session, lines, traffic), lines, traffic, released=released)
        finally:
            await builder.aclose()

    take_over(lines)
    try:
        asyncio.run(serve())
    finally:
        project.close()


class _Lines(RequestLog):
    """The log of one session: without lines of requests, ``off`` leaves out what is neither a warning nor an error."""

    def event(self, level: Literal["info", "warning", "error"], event: str, **fields: Any) -> None:
        """As `RequestLog.event`."""
        if self.kind != "off" or level != "info":
            super().event(level, event, **fields)


async def _serve(server: Server[Any], log: RequestLog, traffic: Traffic, *, released: bool) -> None:
    from mcp.server.stdio import stdio_server

    stopping = asyncio.Event()
    signals: list[int] = []

    def told(number: int) -> None:
        signals.append(number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(one, told, one)
        except NotImplementedError:  # Windows
            signal.signal(one, lambda number, _: loop.call_soon_threadsafe(told, number))
    async with stdio_server() as (reading, writing):
        log.event("info", "started", pid=os.getpid(), transport="stdio", released=released)
        serving = asyncio.ensure_future(server.run(reading, writing, server.create_initialization_options()))
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if signals:
            with suppress(TimeoutError):
                await asyncio.wait_for(traffic.idle.wait(), _PATIENCE)
            await asyncio.sleep(_TICK)  # the last answer is on its way
            log.event("info", "stopped", pid=os.getpid())
            log.flush()
            sys.stdout.flush()
            # a thread that waits for input cannot be told to stop, and would keep the process
            os._exit(_INTERRUPTED if signals[0] == signal.SIGINT else _STOPPED)
        waiting.cancel()
        await serving
    log.event("info", "stopped", pid=os.getpid())
    log.flush()
