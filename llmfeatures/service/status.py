"""The numbers of ``llmfeatures status`` for ``GET /metrics``: looked up in the background, never by a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmfeatures.errors import LLMFeaturesError
from llmfeatures.service.log import RequestLog
from llmfeatures.service.metrics import StatusSample

if TYPE_CHECKING:
    from llmfeatures.project import Project

_KEPT = 15.0
"""Seconds after which a scrape starts a new look."""
_FIRST = 3.0
"""Seconds that the first scrape waits for it."""


class StatusSamples:
    """The samples of the last look at the project's status. A scrape that finds them old starts the next look.
    ``project`` gives that which is served then."""

    def __init__(self, project: Callable[[], Project], log: RequestLog) -> None:
        self._project, self._log = project, log
        self._samples: Sequence[StatusSample] = ()
        self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def latest(self) -> Sequence[StatusSample]:
        """The samples of the last look; of the first one, when there was none."""
        if self._task is None or (self._task.done() and time.monotonic() - self._looked_at > _KEPT):
            first = self._task is None
            self._task = asyncio.create_task(self._look())
            if first:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._task), _FIRST)
        return self._samples

    async def aclose(self) -> None:
        """Wait for no look that still goes on."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        try:
            self._samples = await asyncio.to_thread(self._look_now)
        except LLMFeaturesError as error:
            self._log.event("warning", "status", problem=str(error))
        except Exception as error:  # noqa: BLE001  the other metrics are worth having
            self._log.event("error", "status", problem=type(error).__name__)
        finally:
            self._looked_at = time.monotonic()

    def _look_now(self) -> Sequence[StatusSample]:
        from llmfeatures.status import status_samples

        return list(status_samples(self._project().status()))
