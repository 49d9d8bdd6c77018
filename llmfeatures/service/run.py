"""Runs the service on uvicorn: one process, or several workers that a parent watches over and replaces."""

from __future__ import annotations

import ipaddress
import os
import signal
import tempfile
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.errors import ConfigError
from llmfeatures.service.keys import KeyFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from llmfeatures.config import ServeSection
    from llmfeatures.project import Project
    from llmfeatures.service.app import Service, ServiceApp

_PROJECT: Final = "LLMFEATURES_SERVE_PROJECT"
_KEYS_NEEDED: Final = "LLMFEATURES_SERVE_KEYS_NEEDED"
_TALLIES: Final = "LLMFEATURES_SERVE_TALLIES"
"""How a worker process is told what its parent knows."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(project: Project) -> bool:
    """Whether requests need a key, which they do on an address that others reach.

    Raises:
        ConfigError: the address is public, and there is no key.
    """
    options = project.config.serve
    if is_loopback(options.host):
        return False
    if not KeyFile(project.config.keys).keys():
        raise ConfigError(
            f"{options.host} is an address that others reach, and there is no API key; make one first with "
            "llmfeatures serve keys new NAME --scope read, or serve on 127.0.0.1"
        )
    return True


def run(project: Project) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the address is public and there is no key, or something is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise ConfigError("serve needs FastAPI and uvicorn; pip install 'llmfeatures[serve]'") from None
    needed = check_address(project)
    options = project.config.serve
    with tempfile.TemporaryDirectory(prefix="llmfeatures-serve-") as folder:
        environment = {_PROJECT: str(project.config.root), _KEYS_NEEDED: "1" if needed else ""}
        environment[_TALLIES] = folder if options.workers > 1 else ""
        # an option of the command line reaches the workers as a variable, which overrides the file
        for name in ("host", "port", "workers", "log"):
            environment[f"LLMFEATURES_SERVE_{name}".upper()] = str(getattr(options, name))
        os.environ.update(environment)
        uvicorn.run(
            "llmfeatures.service.run:worker_app",
            factory=True,
            host=options.host,
            port=options.port,
            workers=options.workers,
            loop="auto",
            http="llmfeatures.service.protocol:Connection" if _has("httptools") else "auto",
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, round(options.keep_alive.total_seconds())),
            timeout_graceful_shutdown=max(1, round(options.stop_timeout.total_seconds())),
        )


def worker_app() -> ServiceApp:
    """The application of one worker process; uvicorn calls it there."""
    from llmfeatures.project import Project
    from llmfeatures.service import traces
    from llmfeatures.service.app import Service, ServiceApp

    project = Project.load(os.environ[_PROJECT])
    traces.export_traces()
    tallies = os.environ[_TALLIES]
    service = Service(
        project,
        keys_needed=bool(os.environ[_KEYS_NEEDED]),
        log=None,
        tallies=Path(tallies) if tallies else None,
    )
    return ServiceApp(service, around=lambda: _stopping(service, project.config.serve))


@asynccontextmanager
async def _stopping(service: Service, options: ServeSection) -> AsyncGenerator[None]:
    """On SIGTERM the worker first says that it is not ready, and closes connections after their answer; only then,
    ``drain`` later, uvicorn stops listening. A second signal stops at once."""
    import asyncio

    from llmfeatures.service import traces

    loop, log = asyncio.get_running_loop(), service.desk.log
    stop: Any = signal.getsignal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()

    def begin() -> None:
        log.event("info", "stopping", drain_ms=round(options.drain.total_seconds() * 1000))
        log.flush()
        loop.call_later(options.drain.total_seconds(), stop, signal.SIGTERM, None)

    def terminate(number: int, frame: Any) -> None:
        if service.desk.draining:
            stop(number, frame)
            return
        service.desk.draining = True
        loop.call_soon_threadsafe(begin)

    if main and callable(stop):
        signal.signal(signal.SIGTERM, terminate)
    log.event(
        "info",
        "started",
        project=service.project.config.project.name,
        host=options.host,
        port=options.port,
        pid=os.getpid(),
        prompts=len(service.plans),
        keys=service.desk.ring.needed,
        pushes=service.pushes_refused or "on",
    )
    for name, error in service.broken.items():
        log.event("error", "prompt", prompt=name, problem=str(error))
    log.flush()
    try:
        yield
    finally:
        traces.flush_traces()
        log.event("info", "stopped", pid=os.getpid())
        log.flush()


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
