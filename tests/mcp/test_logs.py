"""What libraries log, as lines without values."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from llmfeatures.mcp.logs import take_over
from tests.mcp.conftest import Log


def test_no_line_has_a_value(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    take_over(log)

    async def fails() -> None:
        raise ValueError("8a2f")

    async def forget() -> None:
        task = asyncio.ensure_future(fails())
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(forget())
    logging.getLogger("other").warning("no %s", "8a2f")
    assert {(one["logger"], one["problem"], one["error"]) for one in log.lines("log")} == {
        ("asyncio", "Task exception was never retrieved", "ValueError"),
        ("other", "no %s", None),
    }
    assert "8a2f" not in log.written.getvalue()
