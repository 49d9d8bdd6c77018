"""On-demand features of random worlds: by their names they read what `tests.parity.world` calls the stored ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def written(f0_0: Any, as_of: datetime) -> str:
    """Tells every value from every other, and each from none."""
    return f"{f0_0!r}"[:60] + f" {as_of:%f}"


def both(f0_0: Any, f1_0: Any, hour: int) -> int | None:
    """None where either is not there."""
    return None if f0_0 is None or f1_0 is None else len(f"{f0_0!r}{f1_0!r}") + hour


def doubled(hour: Any) -> Any:
    """Arrays, of an input alone."""
    from pyarrow import compute

    double: Any = compute
    return double.multiply(hour, 2)
