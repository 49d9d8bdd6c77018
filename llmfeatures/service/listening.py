"""The sockets that a service listens on: opened before it starts, and closed without a connection being dropped."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from llmfeatures.errors import ConfigError

_BACKLOG: Final = 2048
_SO_ATTACH_FILTER: Final = 26
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_NO_NEW: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""A socket filter of Linux: the byte of a segment's flags; with SYN in it the segment is dropped, else it is taken."""


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host. Port 0 takes any that is free.

    Raises:
        ConfigError: the host is unknown, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"{host!r} is no address of this machine; correct --host or [serve] host") from None
    opened: list[socket.socket] = []
    refused: OSError | None = None
    for family, address in dict.fromkeys((one[0], str(one[4][0])) for one in found):
        try:
            made = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            refused = error
            if error.errno in _NOT_HERE:
                continue  # a name may have an address of a kind that this machine has not
            opened = close(opened)
            break
        made.setblocking(False)
        opened.append(made)
        port = port or port_of(opened)
    if not opened:
        raise ConfigError(_refusal(host, port, refused))
    return opened


def port_of(listeners: Sequence[socket.socket]) -> int:
    """The port that is listened on."""
    return listeners[0].getsockname()[1]


def turn_away(listeners: Sequence[socket.socket]) -> bool:
    """Let no further connection begin, while those that have begun are completed and can be accepted. Who connects now
    tries again by itself, and is refused once the socket is closed. Returns whether this system can do that.

    All processes that share a socket turn connections away then.
    """
    if sys.platform != "linux":
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _NO_NEW))
    program = struct.pack("HL", len(_NO_NEW), ctypes.addressof(code))
    try:
        for one in listeners:
            one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def accepted(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    found: list[socket.socket] = []
    for one in listeners:
        with suppress(OSError):  # nobody waits any more
            while True:
                found.append(one.accept()[0])
    return found


def close(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Stop listening here; other processes that share the sockets go on. Returns what is left: none."""
    for one in listeners:
        one.close()
    return []


def _refusal(host: str, port: int, error: OSError | None) -> str:
    match error and error.errno:
        case errno.EADDRINUSE:
            return f"port {port} of {host} is taken; stop what listens there, or serve with --port on another"
        case errno.EACCES:
            return f"this user may not listen on port {port}; take one from 1024, with --port"
        case _:
            return f"{host} is no address of this machine; correct --host or [serve] host"
