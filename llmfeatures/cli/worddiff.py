"""A difference between two prompts as a terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmfeatures.worddiff import DiffLine, diff_lines, plain

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["diff_lines", "plain", "styled"]


def styled(line: DiffLine, *, indent: int = 0) -> Text:
    """The line with colours: changed words stand out. ``indent`` spaces stand before it."""
    from rich.text import Text

    colour = {" ": "", "-": "red", "+": "green"}[line.sign]
    made = Text(" " * indent + line.sign, style=colour)
    for one in line.parts:
        made.append(one.text, style="bold reverse" if one.changed else "")
    return made
