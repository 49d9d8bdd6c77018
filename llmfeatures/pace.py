"""At most so many rows per second, evenly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmfeatures.errors import RequestError

_PORTIONS_PER_SECOND = 10


@dataclass(slots=True, kw_only=True)
class Pace:
    """Keeps a writer of rows down to ``rate`` rows per second; no rate is no limit.

    Time that was lost is not made up for: at no time do more rows go out than the rate allows, but for one portion.

    Raises:
        RequestError: the rate is not a number greater than zero.
    """

    rate: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _free_at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        rate = self.rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1e12):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError("rate is a number of rows per second, greater than zero; leave it out for no limit")

    def portion(self, rows: int) -> int:
        """How many of so many rows to write at once."""
        return rows if self.rate is None else max(1, min(rows, int(self.rate / _PORTIONS_PER_SECOND)))

    def wait(self, rows: int) -> None:
        """Wait until so many rows may be written."""
        if self.rate is None:
            return
        now = self.clock()
        if self._free_at > now:
            self.sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + rows / self.rate
