"""`Server`: uvicorn's, which answers every request that reaches it before it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from llmfeatures.service import listening, traces
from llmfeatures.service.app import ServiceApp
from llmfeatures.service.push import caution_of

if TYPE_CHECKING:
    from llmfeatures.service.app import Service
    from llmfeatures.service.log import RequestLog

_SETTLE: Final = 0.1
"""Seconds in which connections that have begun are completed, once no other begins."""


class Server(uvicorn.Server):
    """Serves in this process, on sockets that are open already.

    Args:
        service: what is served.
        alone: no parent watches this process: it says itself what happens on Ctrl-C and SIGHUP.
        started: called once requests are answered.
        app: the ASGI application; None: all of the service.
    """

    def __init__(
        self, service: Service, *, alone: bool = True, started: Callable[[], None] | None = None, app: Any = None
    ) -> None:
        options = service.project.config.serve
        super().__init__(
            uvicorn.Config(
                app or ServiceApp(service),
                loop="auto",
                http=_protocol(options.head_timeout.total_seconds()),
                log_config=None,
                ws="none",
                access_log=False,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(1, round(options.keep_alive.total_seconds())),
                timeout_graceful_shutdown=max(1, round(options.stop_timeout.total_seconds())),
            )
        )
        self._service, self._alone, self._when_started = service, alone, started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._replaced = not alone  # a worker that is told to stop by itself leaves the sockets to the others
        self._terminal = sys.stdin is not None and sys.stdin.isatty()

    @property
    def prompts(self) -> list[str]:
        """The names of the prompts that are served."""
        return sorted(self._service.plans)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A signal: SIGTERM drains first, Ctrl-C does not, and a second one ends at once. None is raised again."""
        if sig == signal.SIGTERM:
            self.tell(self.drain)
        elif self._alone:  # else the parent has it from the terminal too, and says what to do
            self.tell(self.stop_now)

    def tell(self, what: Callable[[], None]) -> None:
        """Do this in the event loop; from any thread."""
        if self._loop is None:
            self.should_exit = True  # it has not started yet
        else:
            self._loop.call_soon_threadsafe(what)

    def drain(self) -> None:
        """Say that this is not ready and close connections after their answer, for ``drain``; then stop."""
        desk, pause = self._service.desk, self._service.project.config.serve.drain.total_seconds()
        if desk.draining:
            return
        desk.draining = True
        desk.log.event("info", "stopping", pid=os.getpid(), drain_ms=round(pause * 1000))
        desk.log.flush()
        asyncio.get_running_loop().call_later(pause, self._end)

    def retire(self) -> None:
        """As `drain`, while other processes go on listening on the same sockets."""
        self._replaced = True
        self.drain()

    def stop_all(self) -> None:
        """As `drain`, of all processes that listen on the sockets."""
        self._replaced = False
        self.drain()

    def stop_now(self) -> None:
        """Stop without a pause; the second time, without finishing what has begun."""
        self.force_exit = self.should_exit
        self._service.desk.draining = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        self._loop = asyncio.get_running_loop()
        spoken = logging.getLogger("uvicorn")
        spoken.handlers, spoken.propagate = [_ServerLines(self._service.desk.log)], False
        await super().startup(sockets)
        service, options = self._service, self._service.project.config.serve
        log = service.desk.log
        log.event(
            "info",
            "started",
            project=service.project.config.project.name,
            url=f"http://{_authority(options.host)}:{listening.port_of(sockets or [])}",
            pid=os.getpid(),
            release=service.edition.release,
            prompts=len(service.plans),
            keys=service.desk.ring.needed,
            pushes=service.pushes_refused or "on",
        )
        if (caution := caution_of(service.project)) is not None:
            log.event("warning", "pushes", problem=caution)
        if service.release_problem is not None:
            log.event("error", "release", problem=service.release_problem, serving=service.edition.release)
        for name, error in service.broken.items():
            log.event("error", "prompt", prompt=name, problem=str(error))
        log.flush()
        if self._alone and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hang_up)
        if self._when_started is not None:
            self._when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has reached this process, and what the kernel has taken for it; then end."""
        listeners, loop = sockets or [], asyncio.get_running_loop()
        self._service.desk.draining = True
        if not self._replaced and listening.turn_away(listeners):
            await asyncio.sleep(_SETTLE)
        waiting = [] if self._replaced else listening.accepted(listeners)
        for server in self.servers:
            server.close()
        listening.close(listeners)
        for connection in waiting:
            await loop.connect_accepted_socket(self._connection, connection)
        await super().shutdown(sockets)
        traces.flush_traces()
        self._service.desk.log.event("info", "stopped", pid=os.getpid())
        self._service.desk.log.flush()

    def _connection(self) -> Any:
        kind: Any = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=self._loop)

    def _end(self) -> None:
        self.should_exit = True

    def _hang_up(self, *_: object) -> None:
        """SIGHUP: the terminal is gone; or somebody wants new prompts, which only a restart of one process brings."""
        if self._terminal:
            self.tell(self.drain)
        else:
            self.tell(self._decline)

    def _decline(self) -> None:
        self._service.desk.log.event(
            "warning", "hangup", problem="one process cannot be replaced; restart it, or serve with --workers 2"
        )


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _protocol(head_timeout: float) -> Any:
    """The class of connections; without httptools uvicorn's own."""
    from importlib.util import find_spec

    if find_spec("httptools") is None:
        return "auto"
    from llmfeatures.service.protocol import Connection

    return type("Connection", (Connection,), {"head_timeout": head_timeout})


class _ServerLines(logging.Handler):
    """What uvicorn has to say, as lines of the service's log; of an exception only its type, as its text may hold a
    value."""

    def __init__(self, log: RequestLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        kind = record.exc_info[0] if record.exc_info else None
        self._log.event(level, "server", problem=record.getMessage().strip(), error=kind and kind.__name__)
