"""uvicorn's HTTP connection, with limits on the head of a request, and an end that leaves no request behind."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 65_536
"""Bytes that the head of a request may have, or a little more."""
LAST_CALL: Final = 1.0
"""Seconds without a request, after which an idle connection of a service that stops is closed."""


class Connection(HttpToolsProtocol):
    """Closes a connection whose client opens it, or begins a request, and does not go on. When the service stops, a
    connection is closed after its next answer, or when none was asked for a while."""

    head_timeout = 10.0
    """Seconds from a connection, or the first byte of a request, to the end of its head."""
    _head = 0
    _late: asyncio.TimerHandle | None = None
    _last: asyncio.TimerHandle | None = None
    _in_head = False

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        if self._in_head:  # most heads come whole, and need no timer
            self._head += len(data)
            if self._late is None:
                self._expect_head()
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._head = False, 0
        self._forget()
        super().on_headers_complete()
        if self._last is not None:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget()
        if self._last is not None:
            self._last.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The service stops: finish what was asked, and what is asked on the way here."""
        if self._idle():
            self._last = self.loop.call_later(LAST_CALL, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _close_idle(self) -> None:
        """Close, unless a request is here already: its answer closes the connection."""
        if self.transport.is_closing() or not self._idle() or self._in_head:
            return
        if not _bytes_wait(self.transport):
            self._close()

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self.head_timeout, self._close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()


def _bytes_wait(transport: asyncio.Transport) -> bool:
    """Whether the kernel has bytes of the client that were not read yet."""
    try:
        from fcntl import ioctl
        from termios import FIONREAD
    except ImportError:  # on Windows nobody can tell
        return False
    found = ioctl(transport.get_extra_info("socket").fileno(), FIONREAD, bytes(4))
    return any(found)
