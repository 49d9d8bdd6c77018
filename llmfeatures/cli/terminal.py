"""What is printed, and how: data on stdout, notes and errors on stderr; plain and unwrapped in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from llmfeatures.context import FeatureValue

_BETWEEN = 2  # spaces between columns
_WIDEST_WORD = 18  # a word no wider than this is not broken, where a terminal has room for all columns


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as rich sees it. Nothing in a text is markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def coloured() -> bool:
    """Whether standard output shows colours."""
    out = console()
    return out.is_terminal and not out.no_color and out.color_system is not None


def write(text: str = "") -> None:
    """One line of data, or several, exactly as they are."""
    sys.stdout.write(text + "\n")


def write_json(data: Any) -> None:
    """Data for a program."""
    write(json.dumps(data, ensure_ascii=False, indent=2))


def write_styled(text: Text) -> None:
    """A text with colours where there are any, never wrapped."""
    console().print(text, soft_wrap=True)


def heading(text: str) -> None:
    """The title of a part of the output."""
    write_styled(_styled(f"== {text}", "bold cyan"))


def note(text: str) -> None:
    """A remark beside the data."""
    console(stderr=True).print(_styled(f"note: {_one_line(text)}", "dim"), soft_wrap=True)


def error(text: str) -> None:
    """What went wrong and what to do, on one line."""
    line = _styled("error: ", "bold red")
    line.append(_one_line(text), style="not bold default")
    console(stderr=True).print(line, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """A table; ``numbers`` names the columns that stand to the right. In a pipe each row is one whole line."""
    shown = [[safe(cell) for cell in row] for row in rows]
    if console().is_terminal:
        _rich_table(columns, shown, numbers)
    else:
        _plain_table(columns, shown, numbers)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> None:
    from rich.table import Table

    shown = console()
    made = Table(box=None, pad_edge=False, padding=(0, _BETWEEN, 0, 0), header_style="bold")
    for name, width in zip(columns, _widths([columns, *rows], shown.width), strict=True):
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold", width=width)
    for row in rows:
        made.add_row(*row)
    shown.print(made)


def _widths(lines: Sequence[Sequence[str]], available: int) -> list[int]:
    """Widths of columns that fit together: what can be wrapped between words gives way first."""
    from rich.cells import cell_len

    columns = list(zip(*lines, strict=True))
    widths = [min(available, max(map(cell_len, cells))) for cells in columns]
    words = [max((cell_len(word) for cell in cells for word in cell.split()), default=1) for cells in columns]
    least = [min(word, width, _WIDEST_WORD) for word, width in zip(words, widths, strict=True)]
    for floor in (least, [1] * len(columns)):
        while sum(widths) + _BETWEEN * (len(widths) - 1) > available:
            spare, at = max((width - low, at) for at, (width, low) in enumerate(zip(widths, floor, strict=True)))
            if spare <= 0:
                break
            widths[at] -= 1
    return widths


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> None:
    from rich.cells import cell_len

    lines = [columns, *rows]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        cells: list[str] = []
        for name, cell, width in zip(columns, line, widths, strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if name in numbers else cell + space)
        write((" " * _BETWEEN).join(cells).rstrip())


def safe(text: str) -> str:
    """The text on one line, with whatever is not printable as an escape, so that no value drives the terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def value_text(value: Any) -> str:
    """A feature's value in a table: its canonical text, ``-`` for none."""
    from llmfeatures.types import text

    return "-" if value is None else text(value)


def moment_text(value: Any) -> str:
    """A moment in a table, ``-`` for none."""
    from llmfeatures.clock import iso

    return "-" if value is None else iso(value)


def feature_json(found: FeatureValue) -> dict[str, Any]:
    """A feature value as JSON, as the HTTP service has it."""
    from llmfeatures.clock import iso
    from llmfeatures.types import json_value

    event = found.event_timestamp
    return {
        "value": json_value(found.value),
        "status": found.status,
        "event_timestamp": None if event is None else iso(event),
    }


def keys_text(keys: Mapping[str, Any]) -> str:
    """Join keys as they are typed: ``user_id=8a2f``; None is nobody."""
    return " ".join(
        f"{name}={'(nobody)' if value is None else safe(value_text(value))}" for name, value in keys.items()
    )


@contextmanager
def view_progress() -> Generator[Any]:
    """A bar per view of a materialization, gone when it is over; a function that takes no note when nobody watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(view: str, done: int, total: int) -> None:
            if view not in tasks:
                tasks[view] = bars.add_task(f"materialize {view}", total=total)
            bars.update(tasks[view], completed=done, total=total)

        yield progress


@contextmanager
def counting(what: str) -> Generator[Callable[[int], None]]:
    """A line that counts rows, gone when it is over; a function that takes no note when nobody watches."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    err = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(what, total=None)

        def count(done: int) -> None:
            bars.update(task, completed=done)

        yield count


def _styled(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _one_line(text: str) -> str:
    return safe(" ".join(text.split()))
