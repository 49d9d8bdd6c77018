"""An export that is interrupted, however and whenever, goes on to the bytes of one that is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import RequestError
from llmfeatures.export import growing
from llmfeatures.export import partial as partials
from llmfeatures.history import HistorySummary
from llmfeatures.offline import spine as spines
from llmfeatures.remaining import remaining
from llmfeatures.types import DType
from tests.projects import MOMENT, NOW, at, make_project, segment, watched

PROMPT = "---\nfeatures:\n  segment: {default: unknown}\n  watched: {max_age: 10d}\n---\n{{ segment }} {{ watched }}"
ROWS, BATCH = 61, 7
KINDS: dict[str, tuple[str, str | None, dict[str, Any], dict[str, Any]]] = {
    "parquet": ("out.parquet", None, {}, {}),
    "hf": ("out.parquet", "hf", {}, {}),
    "chat": ("out.jsonl", None, {}, {}),
    "chat.gz in parts": ("out.jsonl.gz", None, {"split": "train=0.6,test=0.4"}, {}),
    "promptfoo": ("out.jsonl", "promptfoo", {}, {"without": "segment"}),
    "inspect.zst": ("out.jsonl.zst", "inspect", {}, {}),
    "langfuse.gz": ("out.jsonl.gz", "langfuse", {}, {}),
    "mlflow in parts": ("out.jsonl", "mlflow", {"split": "a=0.5,b=0.5", "seed": 3}, {"target": "label"}),
    "parquet in parts": ("out.parquet", None, {"split": "a=0.5,b=0.5"}, {"without": ["watched", "segment"]}),
    "chat, drawn": ("out.jsonl.zst", "chat", {}, {"sample": 40, "stratify": "label", "label": "segment@+2h"}),
}
"""Where, the format, what `write` takes and what `history` takes."""


def make(root: Path) -> Path:
    """A project whose users u0 to u8 have a history, u9 half of one, and a spine for it."""
    make_project(
        root,
        segments=[segment(f"u{one}", "casual" if one % 3 else "power", at(1), at(1 + one % 5)) for one in range(10)],
        counts=[watched(f"u{one}", one, at(2)) for one in range(9)],
        prompts={"home": PROMPT},
    )
    pq.write_table(spine(), root / "spine.parquet", row_group_size=10)
    return root


def spine(rows: int = ROWS) -> pa.Table:
    return pa.table(
        {
            "user_id": [None if one % 13 == 5 else f"u{one * 7 % 10}" for one in range(rows)],
            "event_timestamp": pa.array([at(3) + timedelta(minutes=one) for one in range(rows)], MOMENT),
            "label": pa.array([f"l{one % 3}" for one in range(rows)]).dictionary_encode(),
        }
    )


@pytest.fixture(autouse=True, scope="module")
def _small_batches() -> Iterator[None]:
    import llmfeatures.offline.join  # noqa: F401  what it makes of the size when it is loaded is for all tests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spines, "BATCH_ROWS", BATCH)
        patch.setattr(partials, "CHECKPOINT_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.load(make(tmp_path_factory.mktemp("project")), now=lambda: NOW)


def history(project: Project, kind: str, given: object = None, now: Any = None) -> Any:
    loaded = project if now is None else Project.load(project.config.root, now=lambda: now)
    return loaded.history("home", given or project.config.root / "spine.parquet", **KINDS[kind][3])


def written(project: Project, kind: str, folder: Path, **options: Any) -> HistorySummary:
    name, format_, own, _ = KINDS[kind]
    return history(project, kind).write(folder / name, format_, **own, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(project: Project) -> Callable[[str], tuple[dict[str, bytes], HistorySummary]]:
    """What an export that nothing disturbs writes."""

    @cache
    def made(kind: str) -> tuple[dict[str, bytes], HistorySummary]:
        with tempfile.TemporaryDirectory() as name:
            summary = written(project, kind, Path(name))
            assert summary.resumed == 0
            return files(Path(name)), summary

    return made


# --- at any moment


class Killed(BaseException):
    """The process is gone: nothing that it did later counts."""


@contextmanager
def disturbed(folder: Path, moment: int, how: str, image: Path) -> Iterator[list[int]]:
    """At the moment of this number something happens; gives how many moments went by.

    Moments are before and after whatever changes the folder: a write, a batch done, a journal, a file moved.
    """
    passed = [0]
    main = threading.get_ident()

    def tick() -> None:
        if threading.get_ident() != main:
            return
        passed[0] += 1
        if passed[0] != moment:
            return
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        shutil.copytree(folder, image)
        raise Killed

    def around(owner: Any, name: str, patch: pytest.MonkeyPatch) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **options: Any) -> Any:
            tick()
            made = inner(*args, **options)
            tick()
            return made

        patch.setattr(owner, name, outer)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (growing.Appended, "write"),
            (growing.ParquetParts, "write"),
            (growing.ParquetParts, "_end"),
            (growing, "parquet_writer"),
            (partials.Partial, "_reach"),
            (partials.Partial, "_record"),
            (os, "replace"),
        ):
            around(owner, name, patch)
        yield passed


@settings(max_examples=10)
@given(
    kind=st.sampled_from(list(KINDS)),
    often=st.booleans(),
    moments=st.lists(
        st.tuples(st.integers(1, 140), st.sampled_from(["interrupt", "kill", "full"])), min_size=1, max_size=4
    ),
)
def test_an_export_disturbed_at_any_moments_gives_the_same(
    kind: str, often: bool, moments: list[tuple[int, str]], project: Project, whole: Any
) -> None:
    expected, counts = whole(kind)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "0"
        folder.mkdir()
        for number, (moment, how) in enumerate(moments, 1):
            image = Path(name) / str(number)
            with disturbed(folder, moment, how, image), pytest.MonkeyPatch.context() as patch:
                patch.setattr(partials, "CHECKPOINT_SECONDS", 0.0 if often else 1e9)
                try:
                    written(project, kind, folder)
                except Killed:
                    folder = image
                except (KeyboardInterrupt, OSError):
                    assert {one.name for one in folder.glob(".*")} <= {partial_name(kind)}
                else:
                    break
        summary = written(project, kind, folder)
        assert files(folder) == expected
        summary.resumed = 0
        assert summary == counts


def partial_name(kind: str) -> str:
    return f".{KINDS[kind][0]}.partial"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("chat")])
def test_what_was_written_after_the_last_whole_batch_does_not_count(
    kind: str, project: Project, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    inner = growing.LinesFile.write

    def write(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:  # the index has the batch already
            raise KeyboardInterrupt
        inner(*args)

    monkeypatch.setattr(partials, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(growing.LinesFile, "write", write)
    with pytest.raises(KeyboardInterrupt):
        written(project, kind, tmp_path)
    assert written(project, kind, tmp_path).resumed == (2 if "parts" in kind else 5) * BATCH
    assert files(tmp_path) == whole(kind)[0]


@contextmanager
def interrupted_at(rows: int) -> Iterator[None]:
    """What runs in the block is interrupted when so many rows of the spine are done, between two checkpoints."""
    inner = partials.Partial._reach

    def reach(self: Any, writings: Any, done: int, progress: Any) -> None:
        inner(self, writings, done, progress)
        if done >= rows:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partials.Partial, "_reach", reach)
        patch.setattr(partials, "CHECKPOINT_SECONDS", 1e9)
        yield


def interrupt_after(project: Project, kind: str, folder: Path, batches: int, **options: Any) -> Any:
    """Interrupt an export when so many batches are done."""
    made = history(project, kind)
    name, format_, own, _ = KINDS[kind]
    with interrupted_at(batches * BATCH), pytest.raises(KeyboardInterrupt):
        made.write(folder / name, format_, **own, **options)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_export_says_what_it_kept_and_goes_on_from_there(
    kind: str, project: Project, whole: Any, tmp_path: Path
) -> None:
    pairs = 1 + len(history(project, kind).without)
    assert interrupt_after(project, kind, tmp_path, 3).kept == 3 * BATCH * pairs
    assert [one.name for one in tmp_path.iterdir()] == [partial_name(kind)]
    read: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        inner = project.offline.join

        def join(given: Any, *args: Any, **options: Any) -> Any:
            for joined in inner(given, *args, **options):
                read.append(joined.spine.num_rows)
                yield joined

        patch.setattr(project.offline, "join", join)
        notes: list[str] = []
        summary = written(project, kind, tmp_path, note=notes.append)
    assert notes == [f"continuing after {3 * BATCH * pairs:,} rows of an interrupted run"]
    assert summary.resumed == 3 * BATCH * pairs
    assert sum(read) <= ROWS - 3 * BATCH + ("label" in KINDS[kind][3]) * ROWS
    assert files(tmp_path) == whole(kind)[0]


def test_an_export_without_an_interruption_leaves_no_journal_on_its_way(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "CHECKPOINT_SECONDS", 15.0)

    def record(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(partials.Partial, "_record", record)
    written(project, "parquet", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]


def test_errors_and_ids_are_counted_on(project: Project, whole: Any, tmp_path: Path) -> None:
    interrupt_after(project, "parquet", tmp_path, 4)
    summary = written(project, "parquet", tmp_path)
    table = pq.read_table(tmp_path / "out.parquet")
    assert summary.rows == ROWS == len(set(table["id"].to_pylist()))
    assert summary.errors == ROWS - table["error"].null_count > 5
    assert summary.first_error == whole("parquet")[1].first_error
    assert sum(summary.statuses["segment"].values()) == ROWS


# --- another export


def test_what_decides_the_bytes_begins_anew(project: Project, tmp_path: Path) -> None:
    root = make(tmp_path / "project")
    out = tmp_path / "out"
    out.mkdir()
    features = (root / "features.yaml").read_text()

    def rewritten(file: str, *, text: str | None = None) -> None:
        path = root / file
        if text is None:
            os.utime(path, ns=(1, 1))
        else:
            path.write_text(text)

    changes: dict[str, Callable[[], None]] = {
        "prompt": lambda: rewritten("prompts/home.prompt.j2", text=PROMPT + "!"),
        "registry": lambda: rewritten(
            "features.yaml", text=features.replace("segment: str}", "segment: str}, lateness: 2h")
        ),
        "data": lambda: rewritten("data/watched.parquet"),
        "spine": lambda: rewritten("spine.parquet"),
    }
    for name, change in changes.items():
        interrupt_after(Project.load(root, now=lambda: NOW), "chat", out, 2)
        change()
        notes: list[str] = []
        summary = written(Project.load(root, now=lambda: NOW), "chat", out, note=notes.append)
        assert notes == [f"beginning anew, and not where an interrupted run left off: {name} changed"], name
        assert summary.resumed == 0
        assert len(files(out)) == 2


@pytest.mark.parametrize(
    ("format_", "options", "given"),
    [
        ("inspect", {}, {}),
        ("chat", {"split": "a=0.5,b=0.5"}, {}),
        ("chat", {"seed": 1}, {}),
        ("chat", {}, {"clock": "event"}),
        ("chat", {}, {"without": "segment"}),
        ("chat", {}, {"target": "label"}),
        ("chat", {}, {"sample": 50}),
    ],
)
def test_another_option_begins_anew(format_: str, options: Any, given: Any, project: Project, tmp_path: Path) -> None:
    interrupt_after(project, "chat", tmp_path, 2)
    made = project.history("home", project.config.root / "spine.parquet", **given)
    assert made.write(tmp_path / "out.jsonl", format_, **options).resumed == 0
    assert not (tmp_path / partial_name("chat")).exists()


def test_begin_anew_when_told_to(project: Project, whole: Any, tmp_path: Path) -> None:
    interrupt_after(project, "chat", tmp_path, 2)
    assert written(project, "chat", tmp_path, resume=False).resumed == 0
    assert files(tmp_path) == whole("chat")[0]


def test_a_report_counts_every_row(project: Project, whole: Any, tmp_path: Path) -> None:
    interrupt_after(project, "chat", tmp_path, 2)
    notes: list[str] = []
    page = tmp_path / "page.html"
    assert written(project, "chat", tmp_path, report=page, note=notes.append).resumed == 0
    assert "a report counts every row" in notes[0]
    page.unlink()
    assert interrupt_after(project, "chat", tmp_path, 2, report=page).kept == 0
    assert files(tmp_path) == whole("chat")[0]


def test_labels_are_as_of_the_moment_of_the_first_run(project: Project, tmp_path: Path) -> None:
    kind, first = "chat, drawn", at(5, 20)  # by then, half of the labels are not known yet
    folders = [tmp_path / "whole", tmp_path / "interrupted", tmp_path / "later"]
    for one in folders:
        one.mkdir()
    whole, interrupted, later = (one / "out.jsonl.zst" for one in folders)
    history(project, kind, now=first).write(whole, "chat")
    with interrupted_at(2 * BATCH), pytest.raises(KeyboardInterrupt):
        history(project, kind, now=first).write(interrupted, "chat")
    assert history(project, kind, now=NOW).write(interrupted, "chat").resumed == 2 * BATCH
    history(project, kind, now=NOW).write(later, "chat")
    assert files(folders[0]) == files(folders[1]) != files(folders[2])


@contextmanager
def moves_interrupted() -> Iterator[None]:
    """What runs in the block is interrupted when all is written, and the files are not moved to their places yet."""
    inner = partials.Partial._record

    def record(self: Any, journal: Any) -> None:
        inner(self, journal)
        if journal.moves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partials.Partial, "_record", record)
        yield


@pytest.mark.parametrize("stop", ["between batches", "before the files are moved"])
@pytest.mark.parametrize("options", [{}, {"sample": 40}, {"sample": 40, "stratify": "target"}])
def test_labels_are_counted_as_if_nothing_had_stopped(
    stop: str, options: dict[str, Any], project: Project, tmp_path: Path
) -> None:
    first = Project.load(project.config.root, now=lambda: at(3, 40))
    later = Project.load(project.config.root, now=lambda: NOW)
    table = spine()

    def prepared(loaded: Project) -> Any:
        return loaded.prepared_spine("home", table, label="segment@+10m", **options)

    undisturbed = prepared(first)
    expected = first.history("home", undisturbed).write(tmp_path / "whole.jsonl").labels
    assert expected is not None
    assert expected["later"] > 0 < expected["present"]
    out = tmp_path / "out.jsonl"
    disturbance = interrupted_at(2 * BATCH) if stop == "between batches" else moves_interrupted()
    with disturbance, pytest.raises(KeyboardInterrupt):
        first.history("home", prepared(first)).write(out)
    spine_again = prepared(later)
    summary = later.history("home", spine_again).write(out)
    assert summary.resumed > 0
    assert summary.labels == expected
    assert spine_again.note() == undisturbed.note() == expected["note"]
    assert spine_again.counts == undisturbed.counts


SPINES: dict[str, Callable[[Path], Any]] = {
    "table": lambda _: spine(),
    "frame": lambda _: spine().to_pandas(),
    "rows": lambda _: spine().to_pylist(),
    "columns": lambda _: spine().to_pydict(),
    "csv": lambda folder: folder / "s.csv",
    "jsonl": lambda folder: folder / "s.jsonl",
    "glob": lambda folder: str(folder / "part-*.parquet"),
}


@pytest.mark.parametrize("name", SPINES)
def test_every_spine_that_can_be_read_again(name: str, project: Project, tmp_path: Path) -> None:
    inputs, outs = tmp_path / "in", [tmp_path / "a", tmp_path / "b"]
    for one in (inputs, *outs):
        one.mkdir()
    spine().to_pandas().to_csv(inputs / "s.csv", index=False)
    spine().to_pandas().to_json(inputs / "s.jsonl", orient="records", lines=True, date_format="iso")
    pq.write_table(spine().slice(0, 33), inputs / "part-0.parquet")
    pq.write_table(spine().slice(33), inputs / "part-1.parquet")
    project.history("home", SPINES[name](inputs)).write(outs[0] / "x.parquet")
    with interrupted_at(4 * BATCH), pytest.raises(KeyboardInterrupt):
        project.history("home", SPINES[name](inputs)).write(outs[1] / "x.parquet")
    assert project.history("home", SPINES[name](inputs)).write(outs[1] / "x.parquet").resumed == 4 * BATCH
    assert files(outs[0]) == files(outs[1])


@settings(max_examples=12)
@given(first=st.integers(0, ROWS + 3), groups=st.integers(1, 70))
def test_the_rest_of_a_spine(first: int, groups: int, project: Project) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.parquet"
        pq.write_table(spine(), path, row_group_size=groups)
        for one in (path, spine()):
            rest = remaining(project.offline, one, first, {"user_id": DType("str")}).read_all()
            assert rest.equals(spine().slice(first).cast(rest.schema))


def test_a_spine_that_is_read_once_leaves_nothing(project: Project, tmp_path: Path) -> None:
    made = project.history("home", spine().to_reader())
    with interrupted_at(3 * BATCH), pytest.raises(KeyboardInterrupt):
        made.write(tmp_path / "out.jsonl")
    assert made.kept == 0
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_refused_leaves_nothing(project: Project, tmp_path: Path) -> None:
    table = spine().append_column("id", pa.array(["same" if one in (3, 40) else f"i{one}" for one in range(ROWS)]))
    for _ in range(2):
        with pytest.raises(RequestError, match="row 40: its id is another row's too"):
            project.history("home", table).write(tmp_path / "out.jsonl", "inspect")
        assert not list(tmp_path.iterdir())


def test_an_id_of_before_the_interruption_is_refused(project: Project, tmp_path: Path) -> None:
    table = spine().append_column("id", pa.array(["same" if one in (3, 40) else f"i{one}" for one in range(ROWS)]))
    path = tmp_path / "s.parquet"
    pq.write_table(table, path)
    with interrupted_at(3 * BATCH), pytest.raises(KeyboardInterrupt):
        project.history("home", path).write(tmp_path / "out.jsonl", "inspect")
    notes: list[str] = []
    with pytest.raises(RequestError, match="row 40: its id is another row's too"):
        project.history("home", path).write(tmp_path / "out.jsonl", "inspect", note=notes.append)
    assert notes
    assert [one.name for one in tmp_path.iterdir()] == ["s.parquet"]


def test_what_is_damaged_is_said_and_removed(project: Project, whole: Any, tmp_path: Path) -> None:
    for damage in ("truncated", "removed"):
        interrupt_after(project, "chat", tmp_path, 2)
        half = tmp_path / partial_name("chat") / "files" / "out.jsonl"
        if damage == "truncated":
            half.write_bytes(half.read_bytes()[:10])
        else:
            half.unlink()
        with pytest.raises(RequestError, match="damaged, and was removed; run it again"):
            written(project, "chat", tmp_path)
        assert not list(tmp_path.iterdir())
    written(project, "chat", tmp_path)
    assert files(tmp_path) == whole("chat")[0]


def test_a_spine_that_is_gone_keeps_what_there_is(project: Project, tmp_path: Path) -> None:
    root = make(tmp_path / "project")
    loaded = Project.load(root, now=lambda: NOW)
    out = tmp_path / "out"
    out.mkdir()
    interrupt_after(loaded, "chat", out, 2)
    (root / "spine.parquet").rename(root / "elsewhere")
    with pytest.raises(Exception, match="is not there"):
        written(loaded, "chat", out)
    (root / "elsewhere").rename(root / "spine.parquet")
    assert written(loaded, "chat", out).resumed == 2 * BATCH


def test_two_runs_at_once_do_not_mix(project: Project, tmp_path: Path) -> None:
    with (
        partials.partial(tmp_path / "out.jsonl", None),
        pytest.raises(RequestError, match=r"another run is writing .*out\.jsonl"),
    ):
        written(project, "chat", tmp_path)
    assert not list(tmp_path.iterdir())
    written(project, "chat", tmp_path)


def test_an_exporter_of_ones_own_needs_no_more_than_before(project: Project, tmp_path: Path) -> None:
    class Ids:
        def write(self, batches: Any, schema: pa.Schema, path: Path) -> int:
            ids = [one for batch in batches for one in batch.column("id").to_pylist()]
            path.write_text("\n".join(ids))
            return len(ids)

        @contextmanager
        def opened(self, schema: pa.Schema, path: Path) -> Iterator[Callable[[pa.RecordBatch], int]]:
            with path.open("w") as file:
                yield lambda batch: file.write("x" * batch.num_rows)

    made = project.history("home", spine())
    made._exporters = {"ids": Ids()}
    made.write(tmp_path / "ids.txt", "ids")
    assert len((tmp_path / "ids.txt").read_text().splitlines()) == ROWS
    made.write(tmp_path / "ids.txt", "ids", split="a=0.5,b=0.5")
    assert sum(len((tmp_path / f"ids.{one}.txt").read_text()) for one in "ab") == ROWS


# --- the command, stopped for real


COMMAND = """
import sys, time
import llmfeatures.offline.spine as spines
spines.BATCH_ROWS = {batch}
import llmfeatures.export.partial as partials
partials.CHECKPOINT_SECONDS = 0.0
inner = partials.Partial._reach
def held(self, writings, rows, progress):
    inner(self, writings, rows, progress)
    while rows >= {hold}:
        time.sleep(0.01)
partials.Partial._reach = held
{more}
from llmfeatures.cli import main
sys.argv[0] = "llmfeatures"
main()
"""


def command(root: Path, kind: str, out: Path, *more: str, hold: int = 10**9, code: str = "") -> list[str]:
    """The command line of an export that stops for ever when ``hold`` rows of the spine are done."""
    name, format_, own, given = KINDS[kind]
    arguments = ["history", "home", "--spine", str(root / "spine.parquet"), "--out", str(out / name)]
    arguments += ["--project", str(root), "--allow-errors", *more]
    arguments += ["--format", format_] if format_ else []
    for option, value in {**own, **given}.items():
        for one in value if isinstance(value, list) else [value]:
            arguments += [f"--{option}", str(one)]
    return [sys.executable, "-c", COMMAND.format(batch=BATCH, hold=hold, more=code), *arguments]


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)


def rows_kept(folder: Path) -> int:
    try:
        return json.loads((folder / "journal.json").read_text())["rows"]
    except FileNotFoundError:
        return 0


SIGNALS = {"parquet": signal.SIGKILL, "chat.gz in parts": signal.SIGINT, "inspect.zst": signal.SIGTERM}
"""The signal that each kind is stopped by in the normal tests; the heavy ones have all pairs."""


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        pytest.param(kind, sign, marks=[] if SIGNALS[kind] == sign else [pytest.mark.heavy])
        for kind in SIGNALS
        for sign in SIGNALS.values()
    ],
)
def test_a_command_that_is_stopped_is_run_again(
    kind: str, sign: signal.Signals, project: Project, whole: Any, tmp_path: Path
) -> None:
    root = project.config.root
    before = 0
    for batches in (3, 6):
        line = command(root, kind, tmp_path, hold=batches * BATCH)
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        wait_until(lambda rows=(batches - 1) * BATCH: rows_kept(tmp_path / partial_name(kind)) == rows)
        process.send_signal(sign)
        _, err = process.communicate(timeout=120)
        kept = rows_kept(tmp_path / partial_name(kind))
        last = batches * BATCH if sign != signal.SIGKILL else 0  # where it came when the batch was done
        assert kept in ((batches - 1) * BATCH, last)
        assert [one.name for one in tmp_path.iterdir()] == [partial_name(kind)]
        assert ("continuing after" in err) == (before > 0)
        if sign != signal.SIGKILL:
            assert process.returncode == 130
            assert f"kept {kept:,} rows; run the same command again to continue" in err
            assert "Traceback" not in err
        before = kept
    ran = subprocess.run(command(root, kind, tmp_path), capture_output=True, text=True, check=True)
    assert f"continuing after {before:,} rows" in ran.stderr
    assert files(tmp_path) == whole(kind)[0]


def test_a_command_whose_disk_is_full_is_run_again(project: Project, whole: Any, tmp_path: Path) -> None:
    root = project.config.root
    size = len(whole("promptfoo")[0]["out.jsonl"])
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))"
    ran = subprocess.run(command(root, "promptfoo", tmp_path, code=code), capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    kept = rows_kept(tmp_path / partial_name("promptfoo"))
    assert f"kept {2 * kept:,} rows; run the same command again to continue" in ran.stderr
    assert kept > 0
    anew = tmp_path / "anew"
    shutil.copytree(tmp_path / partial_name("promptfoo"), anew / partial_name("promptfoo"))
    ran = subprocess.run(command(root, "promptfoo", tmp_path), capture_output=True, text=True, check=True)
    assert "continuing after" in ran.stderr
    shutil.move(anew, tmp_path.parent / "anew")
    assert files(tmp_path) == whole("promptfoo")[0]
    again = command(root, "promptfoo", tmp_path.parent / "anew", "--no-resume")
    ran = subprocess.run(again, capture_output=True, text=True, check=True)
    assert "continuing" not in ran.stderr
    assert files(tmp_path.parent / "anew") == whole("promptfoo")[0]


def test_a_command_beside_another_is_refused(project: Project, tmp_path: Path) -> None:
    root = project.config.root
    process = subprocess.Popen(command(root, "chat", tmp_path, hold=2 * BATCH), stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: rows_kept(tmp_path / partial_name("chat")) == BATCH)
        ran = subprocess.run(command(root, "chat", tmp_path), capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert "another run is writing" in ran.stderr
    finally:
        process.kill()
        process.communicate()
    ran = subprocess.run(command(root, "chat", tmp_path), capture_output=True, text=True, check=False)
    assert (ran.returncode, [one.name for one in tmp_path.glob(".*")]) == (0, [])


@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.2])
def test_an_interrupt_during_the_join_is_no_traceback(seconds: float, project: Project, tmp_path: Path) -> None:
    rows = 1_500_000
    moments = pa.array(range(rows), pa.int64()).cast(pa.timestamp("us", "UTC"))
    users = pa.array([f"u{number % 1000}" for number in range(rows)])
    pq.write_table(pa.table({"user_id": users, "event_timestamp": moments}), tmp_path / "spine.parquet")
    line = [sys.executable, "-m", "llmfeatures", "history", "home", "--spine", str(tmp_path / "spine.parquet")]
    line += ["--out", str(tmp_path / "out.jsonl"), "--project", str(project.config.root)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / ".out.jsonl.partial").exists)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert process.returncode == 130
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["journal.json", "lock", "files"])
def test_an_export_may_have_any_name(name: str, project: Project, tmp_path: Path) -> None:
    history = project.history("home", project.config.root / "spine.parquet")
    history.write(tmp_path / name, "inspect")
    history.write(tmp_path / "plain.jsonl", "inspect")
    assert (tmp_path / name).read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, "plain.jsonl"])
