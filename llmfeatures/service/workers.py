"""Several processes that serve on the same sockets, and the parent that watches over them and replaces them."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

from llmfeatures.errors import LLMFeaturesError
from llmfeatures.service import listening
from llmfeatures.service.log import RequestLog
from llmfeatures.service.server import Server

_START: Final = 120.0
"""Seconds that a new worker may take until it answers."""
_PAUSE: Final = 1.0
"""Seconds until a worker is replaced that died before it had started."""
_STOP, _STOP_NOW, _RETIRE = b"stop", b"stop now", b"retire"
_SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to serve. ``options`` override those of ``[serve]``. ``prompts`` must compile: those that the
    worker has which this one is to replace. ``working``: the files, also when there is a release."""

    root: Path
    options: Mapping[str, Any]
    keys_needed: bool
    tallies: Path
    prompts: frozenset[str] = frozenset()
    working: bool = False


class Workers:
    """The parent's side. On SIGTERM all workers drain and stop, on Ctrl-C without draining; on SIGHUP each is replaced
    by a new one, with the registry and prompts that are there then, before it drains and stops. A worker that dies is
    replaced.

    Args:
        patience: seconds that a worker may take to drain and stop, before it is killed.
    """

    def __init__(
        self, job: Job, count: int, listeners: Sequence[socket.socket], log: RequestLog, *, patience: float
    ) -> None:
        self._listeners, self._log, self._patience = list(listeners), log, patience
        self._job = job
        self._count = count
        self._workers: list[_Worker] = []
        self._retired: list[_Worker] = []
        self._outdated: list[_Worker] = []
        self._coming: _Worker | None = None
        self._signals: list[int] = []
        self._bell, self._rung = socket.socketpair()
        self._terminal = sys.stdin is not None and sys.stdin.isatty()

    def run(self) -> bool:
        """Serve until told to stop. Returns whether it could: False when no worker started."""
        self._heed_signals()
        try:
            self._workers = [_Worker(self._job, self._listeners) for _ in range(self._count)]
            while True:
                self._wait()
                if self._told_to_stop():
                    self._stop()
                    return True
                if self._signals:
                    self._signals.clear()
                    self._outdated = list(self._workers)
                self._replace_outdated()
                self._reap_retired()
                if not self._replace_dead():
                    return False
        finally:
            for one in self._all():
                one.end()

    def _all(self) -> list[_Worker]:
        return [*self._workers, *self._retired, *([] if self._coming is None else [self._coming])]

    def _heed_signals(self) -> None:
        for end in (self._bell, self._rung):
            end.setblocking(False)
        signal.set_wakeup_fd(self._rung.fileno(), warn_on_full_buffer=False)
        for one in _SIGNALS:
            signal.signal(one, lambda number, _: self._signals.append(number))

    def _wait(self) -> None:
        """Until a signal comes, or a worker says something or dies; no longer than a second while one is waited for."""
        handles: list[Any] = [self._bell, *(handle for one in self._all() for handle in one.handles())]
        if not self._signals:
            wait(handles, _PAUSE if self._retired or self._coming else None)
        with suppress(BlockingIOError):
            self._bell.recv(4096)
        for one in self._all():
            one.listen()

    def _told_to_stop(self) -> bool:
        hung_up = self._terminal and getattr(signal, "SIGHUP", None) in self._signals
        return hung_up or signal.SIGTERM in self._signals or signal.SIGINT in self._signals

    def _replace_outdated(self) -> None:
        """A new worker for each outdated one, one after the other. When one does not start, the others stay."""
        self._outdated = [one for one in self._outdated if one in self._workers]
        new = self._coming
        if new is not None and new.started:
            if self._outdated:
                old = self._outdated.pop(0)
                self._workers[self._workers.index(old)] = new
                self._retire(old)
            else:
                self._retire(new)  # the one that it was for has died, and was replaced
            self._coming = None
        elif new is not None and (not new.alive or new.age > _START):
            self._log.event("error", "reload", problem="the new worker did not start; those that run go on")
            new.end()
            self._coming, self._outdated = None, []
        if self._outdated and self._coming is None:
            # a prompt that is broken now is worse than one that is old
            self._coming = _Worker(replace(self._job, prompts=self._outdated[0].prompts), self._listeners)

    def _retire(self, worker: _Worker) -> None:
        worker.say(_RETIRE)
        worker.since = time.monotonic()
        self._retired.append(worker)

    def _reap_retired(self) -> None:
        for one in list(self._retired):
            if not one.alive or one.age > self._patience:
                one.end()
                self._retired.remove(one)

    def _replace_dead(self) -> bool:
        for place, one in enumerate(self._workers):
            if one.alive:
                continue
            self._log.event("error", "worker_died", pid=one.process.pid, exit_code=one.process.exitcode)
            if not one.started:
                if not any(other.started for other in self._workers):
                    return False
                time.sleep(_PAUSE)
            one.end()
            self._workers[place] = _Worker(self._job, self._listeners)
        return True

    def _stop(self) -> None:
        began = time.monotonic()
        told = 0
        while any(one.alive for one in self._all()) and time.monotonic() - began < self._patience:
            interrupted = self._signals.count(signal.SIGINT)
            for one in self._all():
                if not told:
                    one.say(_STOP_NOW if interrupted else _STOP)
                elif interrupted > told - 1:
                    one.say(_STOP_NOW)
            told = interrupted + 1
            listening.close(self._listeners)
            self._wait_for_ends()

    def _wait_for_ends(self) -> None:
        handles: list[Any] = [self._bell, *(one.process.sentinel for one in self._all() if one.alive)]
        wait(handles, _PAUSE)
        with suppress(BlockingIOError):
            self._bell.recv(4096)


class _Worker:
    """A worker as its parent sees it."""

    def __init__(self, job: Job, listeners: Sequence[socket.socket]) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._mine, theirs = spawning.Pipe()
        self.process = spawning.Process(target=_work, args=(job, list(listeners), theirs))
        self.started = False
        self.prompts = frozenset[str]()
        """Those that it serves, once it has started."""
        self.since = time.monotonic()
        self.process.start()
        theirs.close()  # the worker's end is then the worker's alone, and ends with it

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    @property
    def age(self) -> float:
        """Seconds since it was started, or told to retire."""
        return time.monotonic() - self.since

    def handles(self) -> list[Any]:
        """What to wait for."""
        return [self.process.sentinel, *([] if self._mine.closed else [self._mine])]

    def listen(self) -> None:
        """Take what it says."""
        try:
            while not self._mine.closed and self._mine.poll():
                self.prompts, self.started = frozenset(json.loads(self._mine.recv_bytes())), True
        except (EOFError, OSError):
            self._mine.close()

    def say(self, word: bytes) -> None:
        """Tell it what to do."""
        with suppress(OSError, ValueError):  # it is gone
            self._mine.send_bytes(word)

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._mine.close()


def _work(job: Job, listeners: list[socket.socket], parent: Connection) -> None:
    """What a worker does."""
    from llmfeatures.service import run

    for one in _SIGNALS:
        if one != signal.SIGTERM:  # the parent hears of those, and says what to do
            signal.signal(one, signal.SIG_IGN)

    def started() -> None:
        parent.send_bytes(json.dumps(server.prompts).encode())

    try:
        server = run.server(job, started=started)
    except LLMFeaturesError as error:
        RequestLog().event("error", "start", problem=str(error))
        sys.exit(1)
    threading.Thread(target=_obey, args=(parent, server), daemon=True).start()
    server.run(listeners)


def _obey(parent: Connection, server: Server) -> None:
    """Do what the parent says; when it is gone, stop."""
    words = {_STOP: server.stop_all, _STOP_NOW: server.stop_now, _RETIRE: server.retire}
    while True:
        try:
            word = parent.recv_bytes()
        except (EOFError, OSError):
            server.tell(server.stop_all)
            return
        server.tell(words[word])
