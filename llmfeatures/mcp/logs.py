"""What libraries say through Python's logging, as lines of the service's log."""

from __future__ import annotations

import logging

from llmfeatures.service.log import RequestLog

_OWN = "llmfeatures"


def take_over(log: RequestLog) -> None:
    """Write warnings and errors of the SDK, of ours and of others to the log. Of an exception only its type is written,
    and of another library's line only what is written in its code, as the rest may hold a value."""
    root = logging.getLogger()
    root.handlers = [_Lines(log)]
    root.setLevel(logging.WARNING)


class _Lines(logging.Handler):
    def __init__(self, log: RequestLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        kind = record.exc_info[0] if record.exc_info else None
        own = record.name.partition(".")[0] == _OWN
        # asyncio's further lines show a task, and its exception's text
        said = record.getMessage() if own else str(record.msg).strip().partition("\n")[0]
        self._log.event(level, "log", logger=record.name, problem=said.strip(), error=kind and kind.__name__)
