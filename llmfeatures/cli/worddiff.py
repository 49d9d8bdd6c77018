"""A difference between two prompts as a terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmfeatures.worddiff import DiffLine, diff_lines

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["diff_lines", "plain", "styled"]


def plain(line: DiffLine) -> str:
    """The line without colours: changed words as ``[-old-]`` and ``{+new+}``."""
    opening, closing = {" ": ("", ""), "-": ("[-", "-]"), "+": ("{+", "+}")}[line.sign]
    return line.sign + "".join(f"{opening}{one.text}{closing}" if one.changed else one.text for one in line.parts)


def styled(line: DiffLine) -> Text:
    """The line with colours: changed words stand out."""
    from rich.text import Text

    colour = {" ": "", "-": "red", "+": "green"}[line.sign]
    made = Text(line.sign, style=colour)
    for one in line.parts:
        made.append(one.text, style="bold reverse" if one.changed else "")
    return made
