"""Pushes, repeats, rotations, compactions, crashes and readers in any order: what is read is a plain list."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmfeatures.push_log.compaction import compact
from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.push_log.segment import frames, read_header
from llmfeatures.testing.push_log import COUNTED, kept, push_of
from llmfeatures.types import DType

WIDER = {**COUNTED, "genre": DType("str")}
IDS = st.sampled_from([f"push {number}" for number in range(12)])
LOGS = 3


class Pushes(RuleBasedStateMachine):
    """Several logs of one folder stand for several processes. A log that is dropped without a word is one that was
    killed: its lock goes, and its file ends where the kernel had it."""

    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.logs = [self._log() for _ in range(LOGS)]
        self.model: dict[str, list[tuple[object, ...]]] = {}
        self.counter = 0

    def _log(self) -> FolderPushLog:
        return FolderPushLog(self.root, segment_bytes=1_500)

    def _rows(self, wide: bool, count: int) -> list[tuple[object, ...]]:
        self.counter += 1
        rest = ("drama",) if wide else ()
        return [(f"u{number}", self.counter, *rest) for number in range(count)]

    @rule(log=st.integers(0, LOGS - 1), push_id=IDS, count=st.integers(1, 3), wide=st.booleans())
    def push(self, log: int, push_id: str, count: int, wide: bool) -> None:
        rows = self._rows(wide, count)
        new = self.logs[log].append("v", push_of(push_id, rows, WIDER if wide else COUNTED))
        assert new == (push_id not in self.model)
        self.model.setdefault(push_id, rows)

    @rule(log=st.integers(0, LOGS - 1), count=st.integers(1, 3))
    def push_a_new_one(self, log: int, count: int) -> None:
        rows = self._rows(False, count)
        name = f"new {self.counter}"
        assert self.logs[log].append("v", push_of(name, rows, fresh=True))
        self.model[name] = rows

    @rule(log=st.integers(0, LOGS - 1))
    def rotate(self, log: int) -> None:
        self.logs[log]._view("v").rotate()

    @rule(log=st.integers(0, LOGS - 1))
    def compact(self, log: int) -> None:
        self.logs[log].compact("v")

    @rule(together=st.integers(2, 3))
    def merge(self, together: int) -> None:
        compact(self.root / "v", together=together)

    @rule(log=st.integers(0, LOGS - 1), tear=st.integers(1, 60), data=st.data())
    def crash(self, log: int, tear: int, data: st.DataObject) -> None:
        """A process dies while it writes: a part of a push that was never acknowledged stands at the end."""
        view = self.logs[log]._view("v")
        writer = view._writer
        if writer is not None:
            with writer.path.open("rb") as file:
                held = file.read()
            header, start = read_header(writer.name, held) or (None, 0)
            assert header is not None
            last = max((one.end for one in frames(held, start, header.key)), default=start)
            assert last == len(held)
            torn = held[start : start + tear]  # the beginning of a whole push
            with writer.path.open("ab") as file:
                file.write(torn[:-1] if len(torn) > 1 else b"\xff")
            os.close(writer._handle)
            writer._handle = -1
        self.logs[log]._close.detach()
        self.logs[log]._state.tidying.stop()
        self.logs[log] = self._log()

    @rule(log=st.integers(0, LOGS - 1))
    def close(self, log: int) -> None:
        self.logs[log].close()

    @rule(log=st.integers(0, LOGS - 1), push_id=IDS)
    def find(self, log: int, push_id: str) -> None:
        found = self.logs[log].find("v", push_id)
        assert (found is not None) == (push_id in self.model)
        if found is not None:
            rows = [tuple(row[name] for name in found.columns) for row in found.rows.to_pylist()]
            assert sorted(rows) == sorted(self.model[push_id])

    @invariant()
    def all_readers_see_the_list(self) -> None:
        expected = sorted((name, *row) for name, rows in self.model.items() for row in rows)
        versions = set()
        for log in self.logs:
            assert kept(log) == expected
            versions.add(log.version("v"))
        assert len(versions) == 1
        assert self.logs[0].size("v").rows == len(expected)

    def teardown(self) -> None:
        if hasattr(self, "logs"):
            for log in self.logs:
                log.close()
            self._folder.cleanup()


TestPushes = Pushes.TestCase
TestPushes.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
