"""Reading statements in their order; what reads each kind of statement registers itself in `READ`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from jinja2 import nodes

from llmfeatures.checker.run import Run

READ: Final[dict[type[nodes.Node], Callable[[Run, Any], bool | None]]] = {}
"""What reads a statement; it gives False where what follows is not reached."""


def read_all(run: Run, body: Sequence[nodes.Node]) -> bool:
    """Read statements in their order; whether what follows them is reached."""
    for place, node in enumerate(body):
        read = READ.get(type(node))
        goes_on = True if read is None else read(run, node)
        if goes_on is False:
            with run.unreachable():
                read_all(run, body[place + 1 :])
            return False
    return True
