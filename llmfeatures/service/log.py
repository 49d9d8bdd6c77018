"""One line per request, as JSON or for people. No value of a feature, a join key or an API key is ever in one."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import orjson

from llmfeatures.clock import stamp

LogFormat = Literal["json", "text", "off"]
_WAIT: Final = 0.02
"""Seconds that a line waits for others, so that a busy worker writes many at once."""


class RequestLog:
    """Writes lines to a stream, stderr unless told otherwise; a few at a time while an event loop runs."""

    def __init__(self, kind: LogFormat = "json", stream: TextIO | None = None) -> None:
        self.kind: LogFormat = kind
        self._stream = stream or sys.stderr
        self._waiting: list[dict[str, Any]] = []

    def request(
        self,
        *,
        route: str,
        prompt: str,
        status: int,
        code: str | None,
        seconds: float,
        request_id: str,
        key: str | None,
        trace_id: str | None = None,
    ) -> None:
        """A request was answered. ``route`` is the template of its path, ``key`` the id of its API key."""
        if self.kind == "off":
            return
        fields: dict[str, Any] = {
            "time": datetime.now(UTC),
            "level": "info" if status < 500 else "warning" if status == 503 else "error",
            "event": "request",
            "route": route,
            "prompt": prompt,
            "status": status,
            "code": code,
            "ms": round(seconds * 1000, 3),
            "request_id": request_id,
            "key": key,
        }
        if trace_id is not None:
            fields["trace_id"] = trace_id
        self._write(fields)

    def event(self, level: Literal["info", "warning", "error"], event: str, **fields: Any) -> None:
        """Something else happened: a start, a stop, an error of the service's own."""
        self._write({"time": datetime.now(UTC), "level": level, "event": event, **fields})

    def flush(self) -> None:
        """Write what waits. Where it cannot be written (a terminal that is gone, a full disk) it is lost."""
        if self._waiting:
            lines, self._waiting = self._waiting, []
            with suppress(OSError, ValueError):  # of a closed stream
                self._stream.write("".join([_line(self.kind, fields) for fields in lines]))
                self._stream.flush()

    def _write(self, fields: dict[str, Any]) -> None:
        self._waiting.append(fields)
        if len(self._waiting) == 1:
            try:
                asyncio.get_running_loop().call_later(_WAIT, self.flush)
            except RuntimeError:
                self.flush()


def _line(kind: LogFormat, fields: dict[str, Any]) -> str:
    if kind == "text":
        rest = " ".join(
            f"{name}={value}"
            for name, value in fields.items()
            if name not in ("time", "level", "event") and value is not None
        )
        return f"{stamp(fields['time'])} {fields['level']:<7} {fields['event']} {rest}\n"
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z).decode()
