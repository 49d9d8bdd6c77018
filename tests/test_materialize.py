"""Materialize: what is online afterwards is what the history says, however the run went."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures import Project
from llmfeatures.clock import stamp
from llmfeatures.errors import SourceError, StoreReadOnlyError, UnknownNameError
from llmfeatures.ports import RowWrite, ViewFields
from tests.projects import NOW, SEGMENTS, at, make_project, segment, watched, write_rows
from tests.servers import redis_server, start_redis


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def load(root: Path) -> Project:
    return Project.load(root, now=lambda: NOW)


def values(project: Project, users: list[str], name: str = "segment") -> list[Any]:
    found = project.get_online_features([name], [{"user_id": user} for user in users])
    return [(row[name].status, row[name].value) for row in found]


def test_the_newest_row_of_each_key_comes_online_and_the_report_counts(tmp_path: Path, online: str) -> None:
    make_project(
        tmp_path,
        segments=[
            segment("a", "old", at(1)),
            segment("a", "new", at(2), at(2)),
            segment("b", None, at(3), at(3)),
            segment(None, "nobody", at(3), at(3)),
            segment("c", "no moment", None, at(3)),
            segment("d", "later", NOW + timedelta(microseconds=1), at(3)),
            segment("e", "not yet here", at(3), NOW + timedelta(microseconds=1)),
            segment("f", "on the edge", NOW, NOW),
        ],
        online=online,
    )
    project = load(tmp_path)
    (report, _) = project.materialize().views
    assert (report.rows_read, report.keys_written, report.skipped, report.refused) == (4, 3, 0, 2)
    assert report.full
    assert values(project, ["a", "b", "c", "d", "e", "f"]) == [
        ("present", "new"),
        ("null", None),
        ("missing", None),
        ("missing", None),
        ("missing", None),
        ("present", "on the edge"),
    ]


def test_incremental_takes_new_late_and_corrected_rows_and_no_others(tmp_path: Path, online: str) -> None:
    rows = [segment("a", "a1", at(1), at(1)), segment("b", "b1", at(2), at(2)), segment("c", "c1", at(2), at(2))]
    make_project(tmp_path, segments=rows, online=online)
    load(tmp_path).materialize(until=at(12))
    rows += [
        segment("a", "late but older", at(0), at(13)),
        segment("b", "corrected", at(2), at(13)),
        segment("c", "new", at(14), at(14)),
        segment("d", "after until", at(16), at(16)),
    ]
    write_rows(tmp_path / "data/segment.parquet", rows, SEGMENTS)
    project = load(tmp_path)
    (report, _) = project.materialize(until=at(15)).views
    assert (report.full, report.rows_read, report.keys_written, report.skipped) == (False, 3, 2, 1)
    assert values(project, ["a", "b", "c", "d"]) == [
        ("present", "a1"),
        ("present", "corrected"),
        ("present", "new"),
        ("missing", None),
    ]
    assert project.materialize(until=at(16)).views[0].keys_written == 1
    assert values(project, ["d"]) == [("present", "after until")]


def test_a_first_run_removes_rows_that_nobody_accounts_for(tmp_path: Path, online: str) -> None:
    """They are of a first run that was killed, and of a source that has lost them since."""
    make_project(tmp_path, segments=[segment("a", "a1", at(1), at(1))], online=online)
    fields = ViewFields(name="segment", features=("segment",))
    project = load(tmp_path)
    project.online.write([RowWrite("user_id:b", fields, stamp(at(1)), "-", ('"gone"',))])
    (report, _) = project.materialize().views
    assert (report.full, report.keys_written, report.removed) == (True, 1, 1)
    assert values(project, ["a", "b"]) == [("present", "a1"), ("missing", None)]


@pytest.mark.parametrize("others", [False, True])
def test_a_first_run_into_an_empty_redis_looks_for_no_older_rows(tmp_path: Path, others: bool) -> None:
    with start_redis() as server, server.client() as client:
        make_project(tmp_path, segments=[segment("a", "a1", at(1), at(1))], online=server.url)
        project = load(tmp_path)
        if others:
            client.set("somebody", "else's")
        project.materialize()
        assert ("cmdstat_scan" in client.info("commandstats")) is others
        project.materialize(full=True)
        assert "cmdstat_scan" in client.info("commandstats")


ENDLESS = "SELECT 'a' AS user_id, now() AS event_timestamp, sum(i) AS counted FROM range(1_000_000_000_000) t(i)"


def test_what_is_read_ahead_ends_with_the_run(tmp_path: Path) -> None:
    """Ctrl-C while one view is written: the next one, which is being read, is given up."""
    make_project(tmp_path, segments=[segment("a", "a1", at(1), at(1))])
    features = (tmp_path / "features.yaml").read_text()
    (tmp_path / "features.yaml").write_text(
        f'{features}  - {{name: endless, entity: user, source: {{query: "{ENDLESS}"}}, features: {{counted: int}}}}\n'
    )
    project = load(tmp_path)

    def interrupt(view: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.materialize(["segment", "endless"], progress=interrupt)
    assert project.materialize("segment").keys_written == 1


def test_lateness_finds_rows_that_landed_after_their_stamps(tmp_path: Path, online: str) -> None:
    make_project(tmp_path, segments=[segment("a", "a1", at(1), at(1))], online=online)
    features = (tmp_path / "features.yaml").read_text()
    (tmp_path / "features.yaml").write_text(
        features.replace("name: segment, entity", "name: segment, lateness: 1h, entity")
    )
    load(tmp_path).materialize(until=at(12))
    rows = [segment("a", "a1", at(1), at(1)), segment("b", "landed late", at(11, 30), at(11, 30))]
    write_rows(tmp_path / "data/segment.parquet", rows, SEGMENTS)
    project = load(tmp_path)
    project.materialize(until=at(13))
    assert values(project, ["b"]) == [("present", "landed late")]


def test_a_full_run_brings_corrections_in_place_deletions_and_new_features(tmp_path: Path, online: str) -> None:
    rows = [
        segment("a", "wrong", at(1), at(1)),
        segment("b", "older", at(1), at(1)),
        segment("b", "gone", at(2), at(2)),
    ]
    make_project(tmp_path, segments=[*rows, segment("c", "all gone", at(2), at(2))], online=online)
    load(tmp_path).materialize()
    rows = [segment("a", "right", at(1), at(1)), segment("b", "older", at(1), at(1))]
    write_rows(tmp_path / "data/segment.parquet", rows, SEGMENTS)
    project = load(tmp_path)
    project.materialize()
    assert values(project, ["a"]) == [("present", "wrong")]  # an incremental run cannot see it
    (report, _) = project.materialize(full=True).views
    assert report.removed == 1
    assert values(project, ["a", "b", "c"]) == [("present", "right"), ("present", "older"), ("missing", None)]

    write_rows(
        tmp_path / "data/segment.parquet",
        [{**row, "mood": "fine"} for row in rows],
        {**SEGMENTS, "mood": pa.string()},
    )
    features = (tmp_path / "features.yaml").read_text()
    (tmp_path / "features.yaml").write_text(features.replace("{segment: str}", "{segment: str, mood: str}"))
    project = load(tmp_path)
    assert values(project, ["a"], "mood") == [("unavailable", None)]  # never filled with it yet
    (report, _) = project.materialize().views
    assert report.full
    assert values(project, ["a"], "mood") == [("present", "fine")]


def test_a_store_that_was_never_filled_or_flushed_is_unavailable_until_materialized(
    tmp_path: Path, online: str
) -> None:
    make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 3, at(1))], online=online)
    project = load(tmp_path)
    builder = project.builder()
    ctx = builder.build_context("home", user_id="a")
    assert [one.status for one in ctx.features.values()] == ["unavailable", "unavailable"]
    assert ctx.manifest.degraded
    project.materialize()
    assert builder.build_context("home", user_id="a").text == "x watched 3"
    _flush(project)
    assert builder.build_context("home", user_id="a").manifest.degraded
    (report, _) = project.materialize().views
    assert report.full
    assert builder.build_context("home", user_id="a").text == "x watched 3"
    assert not builder.build_context("home", user_id="unknown").manifest.degraded


def _flush(project: Project) -> None:
    store: Any = project.online
    if project.config.online.url == "sqlite":
        store.close()
        for path in project.config.state.glob("online.sqlite*"):
            path.unlink()
    else:
        import redis

        client = redis.Redis.from_url(project.config.online.url)
        for key in client.scan_iter(f"{project.config.project.name}:*"):
            client.delete(key)
        client.close()


def test_an_invalid_value_stops_the_run_before_its_batch_and_names_it(tmp_path: Path, online: str) -> None:
    make_project(tmp_path, segments=[segment("a", "casual", at(1))], online=online)
    text = (tmp_path / "features.yaml").read_text()
    (tmp_path / "features.yaml").write_text(text.replace("{segment: str}", '{segment: "enum[casual]"}'))
    load(tmp_path).materialize()
    write_rows(
        tmp_path / "data/segment.parquet",
        [segment("a", "casual", at(1)), segment("a", "s3cret", at(2)), segment("b", "casual", at(3))],
        SEGMENTS,
    )
    project = load(tmp_path)
    with pytest.raises(SourceError, match="segment") as caught:
        project.materialize(full=True)
    assert "s3cret" not in str(caught.value)
    assert values(project, ["a", "b"]) == [("present", "casual"), ("missing", None)]


def test_views_are_chosen_by_name_and_access_is_obeyed(tmp_path: Path) -> None:
    make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 3, at(1))])
    project = load(tmp_path)
    assert [view.view for view in project.materialize("activity").views] == ["activity"]
    assert values(project, ["a"]) == [("unavailable", None)]
    with pytest.raises(UnknownNameError, match="did you mean 'activity'"):
        project.materialize(["activty"])
    config = (tmp_path / "llmfeatures.toml").read_text()
    (tmp_path / "llmfeatures.toml").write_text(f'{config}access = "read"\n')
    with pytest.raises(StoreReadOnlyError, match="materialize from one that may write"):
        load(tmp_path).materialize()


def test_every_run_leaves_a_record(tmp_path: Path) -> None:
    make_project(tmp_path, segments=[segment("a", "x", at(1))])
    project = load(tmp_path)
    project.materialize(until=at(10))
    project.materialize()
    records = project.runs("segment")
    assert [(one.full, one.until) for one in records] == [
        (True, "2026-05-07T10:00:00.000000Z"),
        (False, "2026-05-07T23:00:00.000000Z"),
    ]
    assert all(one.started <= one.readable_from for one in records)
    (path, *_) = sorted((tmp_path / ".llmfeatures" / "runs").glob("*.json"))
    assert json.loads(path.read_text())["format"] == 2


def test_a_ttl_expires_redis_keys_by_the_machine_s_clock_only(tmp_path: Path, redis_url: str) -> None:
    import redis

    make_project(
        tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 1, at(1))], online=redis_url, ttl="1h"
    )
    project = load(tmp_path)
    project.materialize()
    client = redis.Redis.from_url(redis_url)
    key = f"{project.config.project.name}:user_id:a"
    assert client.ttl(key) == -1  # the clock of this project is not the machine's
    real = Project.load(tmp_path)
    real.materialize(full=True)
    assert client.exists(key) == 0  # long past its ttl and a day
    assert [row["segment"].status for row in real.get_online_features(["segment"], [{"user_id": "a"}])] == ["missing"]
    client.close()


def test_an_until_in_the_future_hides_nothing_that_comes_before_it(tmp_path: Path) -> None:
    make_project(tmp_path, segments=[segment("a", "old", at(1), at(1))])
    load(tmp_path).materialize(until="2027-01-01")
    rows = [segment("a", "old", at(1), at(1)), segment("a", "new", NOW + timedelta(hours=1), NOW + timedelta(hours=1))]
    write_rows(tmp_path / "data/segment.parquet", rows, SEGMENTS)
    later = Project.load(tmp_path, now=lambda: NOW + timedelta(hours=2))
    later.materialize()
    assert values(later, ["a"]) == [("present", "new")]


def test_the_order_of_join_keys_is_part_of_what_the_store_holds(tmp_path: Path) -> None:
    make_project(tmp_path)
    schema = {"a": pa.string(), "b": pa.string(), "x": pa.int64(), "event_timestamp": pa.timestamp("us", "UTC")}
    write_rows(tmp_path / "data" / "pair.parquet", [{"a": "1", "b": "2", "x": 3, "event_timestamp": at(1)}], schema)
    text = "views: [{name: p, entity: pair, source: data/pair.parquet, features: {x: int}}]\n"
    for keys in ("{a: str, b: str}", "{b: str, a: str}"):
        (tmp_path / "features.yaml").write_text(f"entities: [{{name: pair, join_keys: {keys}}}]\n{text}")
        project = load(tmp_path)
        assert project.materialize().views[0].full
        assert project.get_online_features(["x"], [{"a": "1", "b": "2"}])[0]["x"].value == 3


def test_flushall_then_context_is_unavailable_until_an_incremental_run(tmp_path: Path) -> None:
    """With the real command, and the command line as its user has it."""
    import redis

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "llmfeatures", *arguments, "--project", str(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with redis_server() as url:
        make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 3, at(1))], online=url)
        run("materialize")
        assert "x watched 3" in run("context", "home", "user_id=a")
        client = redis.Redis.from_url(url)
        client.flushall()
        client.close()
        degraded = json.loads(run("context", "home", "user_id=a", "--json"))
        assert degraded["manifest"]["degraded"]
        assert {one["status"] for one in degraded["features"].values()} == {"unavailable"}
        run("materialize")
        assert "x watched 3" in run("context", "home", "user_id=a")


PHASES = ["begin", "latest", "write", "written", "sweep", "complete", "completed", "add_run"]


def _materialize_and_die(root: str, phase: str, after: int, full: bool) -> None:
    """Materialize, and be killed at the ``after``-th time that the phase is reached."""
    project = load(Path(root))
    seen = 0

    def wrap(target: Any, method: str, name: str, late: bool = False) -> None:
        inner = getattr(target, method)

        def outer(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            result = inner(*args, **kwargs) if late else None
            if name == phase:
                seen += 1
                if seen > after:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result if late else inner(*args, **kwargs)

        setattr(target, method, outer)

    wrap(project.online, "write_columns", "written", late=True)
    wrap(project.online, "complete", "completed", late=True)
    wrap(project.online, "write_columns", "write")
    for name in ("begin", "sweep", "complete"):
        wrap(project.online, name, name)
    wrap(project.offline, "latest", "latest")
    wrap(project.state, "add_run", "add_run")
    from llmfeatures.materialize import Materializer, Options

    materializer = Materializer(
        offline=project.offline, online=project.online, state=project.state, expires=False, batch_rows=7
    )
    views = project.registry.views
    materializer.run(views, views, until=NOW, now=NOW, options=Options(full=full)).check()


def _contents(project: Project) -> Any:
    users = [{"user_id": f"u{number}"} for number in range(45)]
    found = project.get_online_features(["segment", "watched"], users)
    return found, {name: one.watermark for name, one in (project.online.meta().views).items()}


@pytest.mark.parametrize(
    ("online", "phase", "full"),
    [
        pytest.param(online, phase, full, marks=[] if full == (online == "redis") else [pytest.mark.heavy])
        for online in ("sqlite", "redis")
        for phase in PHASES
        for full in (True, False)
    ],
    indirect=["online"],
)
def test_a_run_killed_in_any_phase_is_healed_by_a_rerun(tmp_path: Path, online: str, phase: str, full: bool) -> None:
    rng = random.Random(f"{phase}{full}")
    first = [segment(f"u{rng.randrange(40)}", f"s{n}", at(1, n % 60), at(1, n % 60)) for n in range(80)]
    make_project(tmp_path, segments=first, counts=[watched(f"u{n}", n, at(1)) for n in range(40)], online=online)
    load(tmp_path).materialize(until=at(12))
    second = [row for row in first if row["user_id"] != "u3"] if full else list(first)
    second += [segment(f"u{rng.randrange(45)}", f"t{n}", at(13, n % 60), at(13, n % 60)) for n in range(15)]
    write_rows(tmp_path / "data/segment.parquet", second, SEGMENTS)

    process = multiprocessing.get_context("spawn").Process(
        target=_materialize_and_die, args=(str(tmp_path), phase, rng.randrange(2), full)
    )
    process.start()
    process.join(60)
    reached = process.exitcode == -signal.SIGKILL
    assert reached or (phase == "sweep" and not full) or process.exitcode == 0
    healed = load(tmp_path)
    # a full run that died among its writes is run in full again, unasked
    healed.materialize(full=full and phase not in ("write", "written", "sweep"))

    other = tmp_path / "uninterrupted"
    make_project(other, segments=first, counts=[watched(f"u{n}", n, at(1)) for n in range(40)])
    load(other).materialize(until=at(12))
    write_rows(other / "data/segment.parquet", second, SEGMENTS)
    uninterrupted = load(other)
    uninterrupted.materialize(full=full)
    assert _contents(healed) == _contents(uninterrupted)


@pytest.mark.heavy
@pytest.mark.parametrize("attempt", range(15))
def test_a_run_killed_at_a_random_moment_is_healed_by_a_rerun(tmp_path: Path, online: str, attempt: int) -> None:
    rng = random.Random(attempt)
    rows = [segment(f"u{rng.randrange(45)}", f"s{n}", at(1, n % 60), at(1, n % 60)) for n in range(2_000)]
    make_project(tmp_path, segments=rows, counts=[watched(f"u{n}", n, at(1)) for n in range(40)], online=online)
    process = multiprocessing.get_context("spawn").Process(
        target=_materialize_and_die, args=(str(tmp_path), "never", 0, True)
    )
    process.start()
    time.sleep(0.4 + rng.random())
    process.kill()
    process.join()
    healed = load(tmp_path)
    healed.materialize()
    make_project(tmp_path / "u", segments=rows, counts=[watched(f"u{n}", n, at(1)) for n in range(40)])
    uninterrupted = load(tmp_path / "u")
    uninterrupted.materialize()
    assert _contents(healed) == _contents(uninterrupted)
