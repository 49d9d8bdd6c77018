"""The folder adapter: the suite, its bytes, and what a file holds that was cut or damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.errors import FormatError, PushLogError
from llmfeatures.ports import PUSHED_ID, PUSHED_RECEIVED, Push, PushedRows, PushLog, PushSize
from llmfeatures.push_log import compaction, manifest, segment
from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.push_log.found import find
from llmfeatures.push_log.ids import index_bytes
from llmfeatures.push_log.locks import lock_file
from llmfeatures.push_log.mounts import transient, volatile
from llmfeatures.push_log.snapshot import Seen
from llmfeatures.testing.push_log import COUNTED, PushLogTests, kept, push_of


class TestFolderPushLog(PushLogTests):
    def open_log(self, root: Path) -> PushLog:
        return FolderPushLog(root / "pushes")


class MemoryPushLog:
    """The contract in few words: it proves that the suite asks for nothing that only files have."""

    roots: ClassVar[dict[Path, dict[tuple[str, str], Push]]] = {}

    def __init__(self, root: Path) -> None:
        self._kept = self.roots.setdefault(root, {})

    @property
    def durable(self) -> str | None:
        return "rows are in memory only; use a folder"

    @property
    def caution(self) -> str | None:
        return None

    def append(self, view: str, push: Push) -> bool:
        return self._kept.setdefault((view, push.push_id), push) is push

    def _of(self, view: str) -> list[Push]:
        return [push for (name, _), push in list(self._kept.items()) if name == view]

    @contextmanager
    def rows(self, view: str) -> Generator[tuple[PushedRows, ...]]:
        groups: dict[tuple[str, ...], list[Any]] = {}
        columns: dict[tuple[str, ...], Any] = {}
        for push in self._of(view):
            count = push.rows.num_rows
            received = pa.repeat(pa.array([push.received], pa.timestamp("us", "UTC"))[0], count)
            ids = pa.repeat(pa.array([push.push_id])[0], count)
            batch = push.rows.append_column(PUSHED_RECEIVED, received).append_column(PUSHED_ID, ids)
            columns[tuple(push.columns)] = push.columns
            groups.setdefault(tuple(push.columns), []).append(batch)
        yield tuple(
            PushedRows(columns=columns[names], table=pa.Table.from_batches(held)) for names, held in groups.items()
        )

    def find(self, view: str, push_id: str) -> Push | None:
        return self._kept.get((view, push_id))

    def version(self, view: str) -> str:
        return " ".join(sorted(one.push_id for one in self._of(view)))

    def size(self, view: str) -> PushSize:
        rows = sum(one.rows.num_rows for one in self._of(view))
        return PushSize(rows=rows, pushes=len(self._of(view)), waiting=0, bytes=0, segments=0, parts=0)

    def compact(self, view: str) -> None: ...

    def close(self) -> None: ...


class TestMemoryPushLog(PushLogTests):
    test_a_forked_process_pushes_too = None

    def open_log(self, root: Path) -> PushLog:
        return MemoryPushLog(root)


KEY = bytes(range(16))
HEADER = (
    b'{"columns":{"user_id":"str","watched":"int"},"format":1,"key":"000102030405060708090a0b0c0d0e0f","view":"v"}\n'
)


def a_segment(*pushes: Push) -> bytes:
    header = segment.Header(view="v", columns=COUNTED, key=KEY)
    return b"".join([segment.header_line(header), *(segment.frame_of(segment.body_of(one), KEY) for one in pushes)])


def ids_in(data: bytes) -> list[str]:
    found = segment.read_header("x", data)
    return [] if found is None else [one.push_id for one in segment.frames(data, found[1], found[0].key)]


def test_the_bytes_of_a_segment() -> None:
    golden = Path(__file__).with_name("golden.seg").read_bytes()
    assert golden.startswith(HEADER)
    assert golden[len(HEADER) :].startswith(b"\xffPSH")
    header, start = segment.read_header("golden", golden) or pytest.fail("no header")
    frames = list(segment.frames(golden, start, header.key))
    assert [(one.push_id, one.received) for one in frames] == [("one", 1778191200000000), ("zwei ä", 1778191200000000)]
    rows = [row for one in frames for row in segment.kept_rows(one, segment.pushed_schema(header.columns)).to_pylist()]
    assert [(row["user_id"], row["watched"], row[PUSHED_ID]) for row in rows] == [
        ("8a2f", 7, "one"), ("b13c", None, "one"), ("", -1, "zwei ä")
    ]  # fmt: skip
    # this version writes the same bytes
    assert a_segment(push_of("one", [("8a2f", 7), ("b13c", None)]), push_of("zwei ä", [("", -1)])) == golden


def test_the_bytes_of_a_manifest_and_an_index() -> None:
    part = manifest.Part(name="part-1", columns=COUNTED, rows=3, pushes=2, bytes=99, ids=2**127)
    held = manifest.Manifest(parts=(part,), replaced=frozenset(["b.seg", "a.seg"]))
    text = (
        '{\n "format": 1,\n "parts": [\n  {\n   "name": "part-1",\n   "columns": {\n    "user_id": "str",\n'
        '    "watched": "int"\n   },\n   "rows": 3,\n   "pushes": 2,\n   "bytes": 99,\n'
        '   "ids": "80000000000000000000000000000000"\n  }\n ],\n "replaced": [\n  "a.seg",\n  "b.seg"\n ]\n}\n'
    )
    assert manifest.manifest_text(held) == text
    assert manifest.parse_manifest(text, "it") == held
    assert index_bytes([b"b" * 16, b"a" * 16]) == b"llmfeatures push ids 1\n" + b"a" * 16 + b"b" * 16


def test_another_format_is_refused(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path)
    log.append("v", push_of("one", [("a", 1)]))
    log.close()
    (name,) = (tmp_path / "v").glob("*.seg")
    whole = name.read_bytes()
    name.write_bytes(whole.replace(b'"format":1', b'"format":2'))
    for read in (lambda: kept(log), lambda: log.append("v", push_of("two", [])), lambda: log.compact("v")):
        with pytest.raises(FormatError, match=r"format 2, this version reads 1; upgrade"):
            read()
    name.write_bytes(whole)
    log.compact("v")
    path = tmp_path / "v" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(FormatError, match=r"manifest.json has format 9, this version reads 1; upgrade"):
        kept(log)
    path.write_text("{")
    with pytest.raises(FormatError, match=r"manifest.json is damaged; restore it"):
        kept(log)


def test_a_segment_cut_at_any_byte_has_the_pushes_before_the_cut() -> None:
    data = a_segment(*(push_of(str(number), [("a", number)]) for number in range(3)))
    ends = [one.end for one in segment.frames(data, len(HEADER), KEY)]
    assert ends[-1] == len(data)
    for cut in range(len(data) + 1):
        assert ids_in(data[:cut]) == [str(number) for number, end in enumerate(ends) if end <= cut]
        # blocks that were never written are zeros after a crash
        zeros = data[:cut] + bytes(600)
        whole = [str(number) for number, end in enumerate(ends) if zeros.startswith(data[:end])]
        assert cut <= len(HEADER) or ids_in(zeros) == whole


def test_a_damaged_byte_takes_one_push_with_it() -> None:
    data = a_segment(*(push_of(str(number), [("a", number)]) for number in range(3)))
    ends = [len(HEADER), *(one.end for one in segment.frames(data, len(HEADER), KEY))]
    for place in range(ends[1], ends[2], 7):
        damaged = data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]
        assert ids_in(damaged) == ["0", "2"]


def test_a_value_that_looks_like_a_push_is_none() -> None:
    forged = segment.frame_of(segment.body_of(push_of("forged", [("b", 1)])), b"another key 1234").decode("latin-1")
    data = a_segment(push_of("one", [(forged, 1)]))
    assert ids_in(data) == ["one"]
    assert ids_in(data[:-1]) == []


def test_a_torn_push_of_a_dead_writer_is_gone_and_the_rest_becomes_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    whole = a_segment(push_of("one", [("a", 1)]), push_of("two", [("a", 2)]))
    (folder / "a.seg").write_bytes(whole[:-3])
    (folder / "b.seg").write_bytes(HEADER[:20])
    (folder / "c.seg").write_bytes(b"")
    log = FolderPushLog(tmp_path)
    assert kept(log) == [("one", "a", 1)]
    log.compact("v")
    assert kept(log) == [("one", "a", 1)]
    assert list(folder.glob("*.seg")) == []
    assert log.append("v", push_of("two", [("a", 2)]))
    log.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="says which file is synced")
def test_what_is_on_disk_when_a_push_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The push, and of a new segment its name and those of the folders that were made for it."""
    synced: list[tuple[Path, int]] = []

    def recorded(sync: Callable[[int], None]) -> Callable[[int], None]:
        def recording(handle: int) -> None:
            synced.append((Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_size))
            sync(handle)

        return recording

    log = FolderPushLog(tmp_path / "data" / "pushes")
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recorded(getattr(os, name)))
    log.append("v", push_of("one", [("a", 1)]))
    folder = log.folder / "v"
    (segment_path,) = folder.glob("*.seg")
    (place,) = [place for place, (path, _) in enumerate(synced) if path == segment_path]
    assert synced[place][1] == segment_path.stat().st_size
    after = [path for path, _ in synced[place + 1 :]]
    assert after[:4] == [folder, log.folder, log.folder.parent, tmp_path]
    synced.clear()
    log.append("v", push_of("two", [("a", 2)], fresh=True))
    assert synced == [(segment_path, segment_path.stat().st_size)]
    synced.clear()
    assert not log.append("v", push_of("two", [("a", 3)]))  # a repeat is acknowledged, too: its first writer may die
    assert [path for path, _ in synced if path.suffix != ".lock"][-2:] == [segment_path, folder]
    log.close()


def test_an_old_segment_becomes_parquet_on_its_own(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path, segment_seconds=0.05)
    log.append("v", push_of("one", [("a", 1)]))
    deadline = time.monotonic() + 20
    while log.size("v").waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept(log) == [("one", "a", 1)]
    log.close()


def test_large_segments_become_parquet_on_their_own_and_small_files_become_one(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path, segment_bytes=2_000)
    expected = []
    for number in range(150):
        log.append("v", push_of(f"{number:03}", [("a", number)], fresh=True))
        expected.append((f"{number:03}", "a", number))
    deadline = time.monotonic() + 20
    while log.size("v").segments > 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept(log) == expected
    log.compact("v")
    size = log.size("v")
    assert size.parts < compaction.TOGETHER
    assert (size.rows, size.waiting) == (150, 0)
    assert kept(log) == expected
    log.close()


def test_what_another_process_kept_from_being_tidied_up_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.push_log.tidying._BUSY", 0.05)
    (tmp_path / "v").mkdir()
    log = FolderPushLog(tmp_path, segment_seconds=0.05)
    with lock_file(tmp_path / "v" / compaction.LOCK, wait=False) as mine:
        assert mine
        log.append("v", push_of("one", [("a", 1)]))
        time.sleep(0.3)
        assert log.size("v").waiting == 1
    deadline = time.monotonic() + 20
    while log.size("v").waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept(log) == [("one", "a", 1)]
    log.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_that_was_forked_under_a_lock_does_not_keep_it(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path)
    log.append("v", push_of("one", [("a", 1)]))
    log.compact("v")
    log.append("v", push_of("two", [("a", 2)]))
    gate, opened = os.pipe()
    with (
        lock_file(tmp_path / "lock", wait=False),
        lock_file(tmp_path / "v" / compaction.LOCK, wait=False),
        log.rows("v") as (found, *_),
    ):
        (held,) = found.files
        child = os.fork()
        if not child:
            os.close(opened)
            os.read(gate, 1)
            os._exit(0)
    try:
        with lock_file(tmp_path / "lock", wait=False) as mine:
            assert mine
        for number in range(2, compaction.TOGETHER + 1):
            log.append("v", push_of(str(number), [("a", number)]))
            log.compact("v")
        assert log.size("v").waiting == 0
        log.compact("v")
        assert not held.exists()
    finally:
        os.close(opened)
        assert os.waitpid(child, 0)[1] == 0
        os.close(gate)
        log.close()


def test_a_push_is_found_in_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_ROW_GROUP", 3)
    log = FolderPushLog(tmp_path)
    rows = {one: [(f"u{number:02}", number) for number in range(one, 20, 2)] for one in (0, 1)}
    for one, held in rows.items():
        log.append("v", push_of(f"push {one}", held))
    log.append("v", push_of("nothing", []))
    log.compact("v")
    (part,) = (tmp_path / "v").glob("*.parquet")
    assert pq.ParquetFile(part).num_row_groups > 3
    for one, held in rows.items():
        found = log.find("v", f"push {one}")
        assert found is not None
        assert [(row["user_id"], row["watched"]) for row in found.rows.to_pylist()] == held
    assert log.find("v", "nothing") is None
    assert not log.append("v", push_of("nothing", [("a", 1)]))
    log.close()


def test_a_file_that_is_read_stays_until_the_reader_is_done(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path)
    log.append("v", push_of("0", [("a", 0)]))
    log.compact("v")
    with log.rows("v") as (found,):
        (held,) = found.files
        for number in range(1, compaction.TOGETHER):
            log.append("v", push_of(str(number), [("a", number)]))
            log.compact("v")
        assert log.size("v").parts == 1
        assert held.is_file()
        assert pq.read_table(held).num_rows == 1
    log.compact("v")
    assert not held.exists()
    assert len(kept(log)) == compaction.TOGETHER
    log.close()


def test_what_a_crashed_compaction_left_is_removed_and_counts_nothing(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path)
    log.append("v", push_of("one", [("a", 1)]))
    log.append("v", push_of("two", [("a", 2)]))
    log.close()
    folder = tmp_path / "v"
    (name,) = folder.glob("*.seg")
    whole = name.read_bytes()
    log.compact("v")
    assert not name.exists()
    # it died after publication: the segment is still there, and in the manifest
    name.write_bytes(whole)
    assert len(kept(log)) == 2
    # it died before publication: a part that nothing names
    (part,) = folder.glob("*.parquet")
    shutil.copy(part, folder / "part-0000000000000000.parquet")
    (folder / ".part-0000000000000001.parquet.part").write_bytes(b"half")
    assert len(kept(log)) == 2
    log.compact("v")
    assert len(kept(log)) == 2
    assert not name.exists()
    assert len([one for one in folder.iterdir() if "part" in one.name]) == 2  # the part and its index


def test_a_full_disk_refuses_the_push_and_cuts_off_what_was_written(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: the write stops in the middle of a push."""
    code = f"""
import resource
from pathlib import Path
from llmfeatures.errors import PushLogError
from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.testing.push_log import kept, push_of
log = FolderPushLog(Path({str(tmp_path)!r}))
log.append("v", push_of("one", [("a", 1)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    log.append("v", push_of("big", [("x" * 5000, 1)]))
except PushLogError as error:
    print(error)
log.append("v", push_of("two", [("a", 2)]))
assert not log.append("v", push_of("two", [("a", 2)]))
print(kept(log))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    said, rows = done.stdout.splitlines()
    assert "cannot be written: File too large; nothing was acknowledged: free some disk" in said
    assert rows == "[('one', 'a', 1), ('two', 'a', 2)]"
    assert kept(FolderPushLog(tmp_path)) == [("one", "a", 1), ("two", "a", 2)]


def test_a_folder_that_was_taken_away_is_not_written_to(tmp_path: Path) -> None:
    log = FolderPushLog(tmp_path / "pushes")
    log.append("v", push_of("one", [("a", 1)]))
    shutil.rmtree(tmp_path / "pushes")
    log.append("v", push_of("two", [("a", 2)]))
    log.append("v", push_of("three", [("a", 3)], fresh=True))
    assert kept(log) == [("three", "a", 3), ("two", "a", 2)]
    log.close()


def test_the_files_that_a_manifest_names_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FolderPushLog(tmp_path)
    log.append("v", push_of("one", [("a", 1)]))
    log.compact("v")
    for path in (tmp_path / "v").glob("part-*"):
        path.unlink()
    monkeypatch.setattr("llmfeatures.push_log.snapshot._PATIENCE", 0.05)
    with pytest.raises(PushLogError, match="gone that its manifest names; restore them"):
        kept(log)


@pytest.mark.parametrize("suffix", [".ids", ".parquet"])
def test_what_meets_a_file_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    log = FolderPushLog(tmp_path)
    for number in range(compaction.TOGETHER - 1):
        log.append("v", push_of(f"compacted {number}", [("a", 1)]))
        log.compact("v")
    log.append("v", push_of("waiting", [("a", 1)]))
    log.close()
    taken = {path: path.read_bytes() for path in (tmp_path / "v").glob(f"part-*{suffix}")}
    for path in taken:
        path.unlink()
    monkeypatch.setattr("llmfeatures.push_log.snapshot._PATIENCE", 0.05)
    log = FolderPushLog(tmp_path)
    for method in (log.compact, log.compact, lambda view: log.find(view, "compacted 0")):
        with pytest.raises(PushLogError, match="gone that its manifest names; restore them"):
            method("v")
    for path, data in taken.items():
        path.write_bytes(data)
    log.compact("v")
    assert len(kept(log)) == compaction.TOGETHER
    assert log.find("v", "compacted 0") is not None
    log.close()


def test_a_push_is_found_while_files_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is merged into another one between the look at the folder and the look at its index."""
    log, other = FolderPushLog(tmp_path), FolderPushLog(tmp_path)
    for number in range(compaction.TOGETHER - 1):
        other.append("v", push_of(f"push {number}", [("a", number)]))
        other.compact("v")
    seen: list[int] = []

    def late(folder: Path, at: Seen, *rest: Any) -> Push | None:
        seen.append(len(at.manifest.parts))
        if len(seen) == 1:
            other.append("v", push_of("last", [("a", 9)]))
            other.compact("v")
        return find(folder, at, *rest)

    monkeypatch.setattr("llmfeatures.push_log.folder.find", late)
    found = log.find("v", "push 3")
    assert found is not None
    assert found.rows.column("watched").to_pylist() == [3]
    assert seen == [compaction.TOGETHER - 1, 1]
    for one in (log, other):
        one.close()


def test_where_rows_may_not_survive(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"overlay / overlay rw 0 0\n/dev/vda {tmp_path}/volume ext4 rw 0 0\n")
    (tmp_path / "volume").mkdir()
    assert volatile(tmp_path / "inside", mounts) is None
    assert "does not survive the container" in (transient(tmp_path / "inside" / "pushes", mounts) or "")
    assert transient(tmp_path / "volume" / "pushes", mounts) is None
    assert transient(tmp_path / "inside", tmp_path / "no such file") is None
    assert FolderPushLog(tmp_path / "volume").caution == transient(tmp_path / "volume")


def test_where_rows_would_not_survive(tmp_path: Path) -> None:
    assert FolderPushLog(tmp_path / "not" / "yet" / "there").durable is None or volatile(tmp_path)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {tmp_path}/in\\040memory tmpfs rw 0 0\n")
    (tmp_path / "in memory").mkdir()
    assert volatile(tmp_path / "disk", mounts) is None
    said = volatile(tmp_path / "in memory" / "pushes", mounts)
    assert said is not None
    assert "lies in memory (tmpfs)" in said
    (tmp_path / "file").write_text("")
    assert "is no folder" in (volatile(tmp_path / "file" / "pushes") or "")
    if Path("/dev/shm").is_dir():
        assert "in memory" in (FolderPushLog(Path("/dev/shm/llmfeatures")).durable or "")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot be written" in (volatile(tmp_path / "closed" / "pushes") or "")
