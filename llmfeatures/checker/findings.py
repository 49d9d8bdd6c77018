"""What the checker says: findings with a place, and edits that mend them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A replacement of the text from one place to another of a file; lines and columns from 1, the end excluded."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong, or worth knowing, at a place.

    ``path`` is as shown to people; ``line`` and ``column`` count from 1, header included, None where there is no
    place; the end is exclusive. ``help`` says what to do. ``edits`` mend it, when that is safe.
    """

    code: str
    severity: Severity
    path: str
    message: str
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    help: str = ""
    edits: tuple[Edit, ...] = ()


def finding_of(fields: Mapping[str, Any]) -> Finding:
    """The finding of which `dataclasses.asdict` gave these fields.

    Raises:
        TypeError, KeyError: they are those of something else.
    """
    options: dict[str, Any] = {**fields, "edits": tuple(Edit(**edit) for edit in fields["edits"])}
    return Finding(**options)
