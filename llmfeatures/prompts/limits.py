"""How much one value may put into a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from llmfeatures.errors import RenderError

MAX_VALUE: Final = 1_000_000
"""The most characters that one printed value may have, and the most parts of a list or json value."""


def check_items(length: int) -> None:
    """Refuse to make a list of so many items.

    Raises:
        RenderError: they are more than `MAX_VALUE`.
    """
    if length > MAX_VALUE:
        raise RenderError(f"a list of {length:,} items is longer than the {MAX_VALUE:,} that a prompt may make")


def check_length(length: int, what: str = "") -> None:
    """Refuse to print a value of this many characters.

    Raises:
        RenderError: it is longer than `MAX_VALUE`; ``what`` is the expression that it is from.
    """
    if length > MAX_VALUE:
        raise RenderError(
            f"{what or 'a value'} has {length:,} characters, and a prompt prints {MAX_VALUE:,} of a value at most: "
            "cut it in its source, or with the filter clip_chars(...)"
        )


def check_parts(value: Any, what: str = "") -> None:
    """Refuse to print a list or json value of too many parts; shared ones count each time, as they are printed.

    Raises:
        RenderError: it has more than `MAX_VALUE`.
    """
    room = MAX_VALUE
    todo: list[Any] = [value]
    while todo:
        one: Any = todo.pop()
        inner: Iterable[Any]
        if isinstance(one, Mapping):
            inner = cast("Mapping[Any, Any]", one).values()
        elif isinstance(one, (list, tuple)):
            inner = cast("list[Any]", one)
        else:
            continue
        room -= 1 + len(cast("list[Any]", one))
        if room < 0:
            raise RenderError(
                f"{what or 'a value'} has more than {MAX_VALUE:,} parts, the most that a prompt prints of a value"
            )
        todo.extend([part for part in inner if isinstance(part, (list, tuple, Mapping))])
