"""On-demand features of random worlds that do not know their moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def written(f0_0: Any) -> str:
    """Tells every value from every other, and each from none."""
    return f"{f0_0!r}"[:60]


def kind(watched: int | None) -> str | None:
    """None for nobody known."""
    return None if watched is None else "heavy" if watched > 30 else "light"


def dated(as_of: datetime) -> str:
    """Another one at every moment."""
    return f"{as_of:%c}"
