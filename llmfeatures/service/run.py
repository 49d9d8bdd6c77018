"""Runs the service on uvicorn: one process, or several workers that a parent watches over and replaces."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.errors import ConfigError, PromptError, ServiceError
from llmfeatures.project import Project
from llmfeatures.service.keys import KeyFile
from llmfeatures.service.listening import close, open_sockets, port_of
from llmfeatures.service.log import RequestLog

if TYPE_CHECKING:
    from llmfeatures.service.server import Server
    from llmfeatures.service.workers import Job

_LATE: Final = 5.0
"""Seconds that a worker may take beyond its own limits before it is killed."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(project: Project) -> bool:
    """Whether requests need a key: where others reach the address, where ``[serve] keys_needed`` says so, and once
    there is one, so that a worker that starts later asks for it too.

    Raises:
        ConfigError: a key is needed, and there is none; or the key file cannot be read.
    """
    options, path = project.config.serve, project.config.keys
    if KeyFile(path).keys():
        return True
    if not is_loopback(options.host):
        raise ConfigError(
            f"{options.host} is an address that others reach, and there is no API key in {path}; make one first with "
            "llmfeatures serve keys new NAME --scope read, or serve on 127.0.0.1"
        )
    if options.keys_needed:
        raise ConfigError(
            f"[serve] keys_needed is true, and there is no API key in {path}; make one first with "
            "llmfeatures serve keys new NAME --scope read, with the configuration and environment that serve has"
        )
    return False


def run(root: Path, options: Mapping[str, Any], *, working: bool = False) -> None:
    """Serve a project until SIGTERM or Ctrl-C. ``options`` override those of ``[serve]``.

    Args:
        working: serve the files; else the active release, and the files until there is one.

    Raises:
        ConfigError: a key is needed and there is none, the port is taken, or something is not installed.
        DefinitionError: the registry is wrong.
        ServiceError: no worker could start.
        ReleaseError: the active release cannot be served here.
    """
    try:
        from llmfeatures.service.workers import Job, Workers
    except ImportError:
        raise ConfigError("serve needs FastAPI and uvicorn; pip install 'llmfeatures[serve]'") from None
    project = configured(root, options)
    limits = project.config.serve
    needed = check_address(project)
    listeners = open_sockets(limits.host, limits.port)
    try:
        with tempfile.TemporaryDirectory(prefix="llmfeatures-serve-") as folder:
            given = {**options, "port": port_of(listeners)}
            job = Job(
                root=project.config.root, options=given, keys_needed=needed, tallies=Path(folder), working=working
            )
            if limits.workers == 1:
                server(job, project=project).run(listeners)
                return
            patience = (limits.drain + limits.stop_timeout).total_seconds() + _LATE
            workers = Workers(job, limits.workers, listeners, RequestLog(limits.log), patience=patience)
            if not workers.run():
                raise ServiceError("no worker could start; its line in the log says why")
    finally:
        close(listeners)


def configured(root: Path, options: Mapping[str, Any]) -> Project:
    """The project, with these options of ``[serve]``."""
    loaded = Project.load(root)
    section = loaded.config.serve.model_copy(update=dict(options))
    return Project(loaded.config.model_copy(update={"serve": section}), loaded.registry, now=loaded.clock)


def server(job: Job, *, project: Project | None = None, started: Callable[[], None] | None = None) -> Server:
    """The server of this process: of the project, when no other process serves it; else of one that is loaded now.

    Raises:
        LLMFeaturesError: the project cannot be served.
    """
    from llmfeatures.releases.following import Following
    from llmfeatures.service import traces
    from llmfeatures.service.app import Service
    from llmfeatures.service.server import Server

    traces.export_traces()
    served = project or configured(job.root, job.options)
    service = Service(
        served,
        keys_needed=job.keys_needed,
        log=None,
        tallies=None if project is not None else job.tallies,
        following=None if job.working else Following(served.state, served.registry),
    )
    for name in sorted(job.prompts & service.broken.keys()):
        raise PromptError(f"prompt {name!r} compiled before, and does not now: {service.broken[name]}")
    return Server(service, alone=project is not None, started=started)
