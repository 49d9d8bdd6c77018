"""`Project.status` and ``llmfeatures status``: they tell the truth about what is online, and whether it is late."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.clock import stamp
from llmfeatures.errors import FormatError
from llmfeatures.online import usage as online_usage
from llmfeatures.online.redis import RedisStore
from llmfeatures.ports import UNFINISHED, FailureRecord, RunRecord, ViewFields, ViewMeta
from llmfeatures.registry import schema_hash
from llmfeatures.schedule import due, late
from llmfeatures.status import Status, ViewStatus, duration_words, run_seconds, status_json, status_samples
from llmfeatures.testing.online import ACTIVITY, USER, activity
from tests import servers
from tests.projects import NOW, at, make_project, segment, watched
from tests.servers import Server

HOURLY = timedelta(hours=1)
USERS = 30


def made(root: Path, *, online: str = "sqlite", cadence: str = "1h") -> Path:
    """A project of which the view ``activity`` has a cadence, and ``segment`` none."""
    make_project(
        root,
        segments=[segment(f"u{user}", "casual", at(1)) for user in range(USERS)],
        counts=[watched(f"u{user}", user, at(1)) for user in range(USERS // 2)],
        online=online,
    )
    path = root / "features.yaml"
    path.write_text(path.read_text().replace("{name: activity,", f"{{name: activity, cadence: {cadence},"))
    return root


def load(root: Path, after: timedelta = timedelta(0)) -> Project:
    return Project.load(root, now=lambda: NOW + after)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own: what it says of itself is tested."""
    with servers.start_redis() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The project on each kind of store."""
    online = "sqlite" if request.param == "sqlite" else request.getfixturevalue("server").url
    return made(tmp_path, online=online)


def view(status: Status, name: str) -> ViewStatus:
    return next(one for one in status.views if one.view == name)


def test_a_store_that_was_never_filled(root: Path) -> None:
    status = load(root).status()
    assert status.store.reachable
    assert (status.store.format, status.store.lifetime) == (None, None)
    assert [(one.view, one.late, one.watermark, one.keys) for one in status.views] == [
        ("segment", False, None, 0),
        ("activity", True, None, 0),
    ]
    assert status.late == ("activity",)
    assert [one.available for one in status.views] == [False, False]
    assert not status.well
    assert status.warnings == (
        "never filled: 'segment', 'activity'; the features are unavailable: run llmfeatures materialize",
    )


def test_a_view_whose_features_are_unavailable_is_not_well(root: Path) -> None:
    """Whether it has a cadence or not."""
    project = load(root)
    project.materialize(["activity"])
    status = project.status()
    assert [(one.view, one.available) for one in status.views] == [("segment", False), ("activity", True)]
    assert (status.late, status.well) == ((), False)
    project.materialize()
    assert project.status().well


def test_a_store_that_was_emptied(root: Path) -> None:
    project = load(root)
    project.materialize()
    if project.config.online.url == "sqlite":
        project.close()
        (root / ".llmfeatures" / "online.sqlite").unlink()
    else:
        redis.Redis.from_url(project.config.online.url).flushall()
    status = project.status()
    assert not status.well
    assert [one for one in status.warnings if one.startswith("the online store was emptied after the last run of ")]
    project.materialize()
    assert project.status().warnings == ()


def test_what_is_online(root: Path) -> None:
    project = load(root)
    project.materialize()
    status = project.status()
    meta = project.online.meta()
    assert meta is not None
    assert (status.store.format, status.store.lifetime) == (meta.format, meta.lifetime)
    assert status.well
    assert status.warnings == ()
    assert not status.fixed_clock
    for name, users in (("segment", USERS), ("activity", USERS // 2)):
        found = view(status, name)
        assert (found.watermark, found.lag, found.current, found.unfinished) == (NOW, timedelta(0), True, False)
        assert found.keys == users
        assert found.bytes is not None
        assert found.bytes > users * 20
        assert found.last_run is not None
        assert (found.last_run.rows_read, found.last_run.keys_written) == (users, users)
        assert found.last_run == project.runs(name)[-1]
        assert found.failures == ()
    assert status.store.usage is not None
    assert status.store.usage.exact
    assert status.store.usage.memory_used


@pytest.mark.parametrize(("minutes", "expected"), [(0, False), (89, False), (90, False), (91, True), (6000, True)])
def test_late_against_its_cadence(root: Path, minutes: int, expected: bool) -> None:
    load(root).materialize()
    status = load(root, timedelta(minutes=minutes)).status()
    assert view(status, "activity").lag == timedelta(minutes=minutes)
    assert (view(status, "activity").late, view(status, "segment").late) == (expected, False)
    assert status.well is not expected


def test_due_at_multiples_of_the_cadence(tmp_path: Path) -> None:
    hourly, never = load(made(tmp_path)).registry.view("activity"), load(tmp_path).registry.view("segment")
    moment = at(12, 30)
    assert [due(hourly, watermark, moment) for watermark in (None, at(11, 59), at(12), at(12, 10))] == [
        True,
        True,
        False,
        False,
    ]
    assert not due(never, None, moment)
    assert not late(never, None, moment)


def test_a_view_that_is_defined_otherwise_now(root: Path) -> None:
    load(root).materialize()
    path = root / "features.yaml"
    path.write_text(path.read_text().replace("{watched: int}", "{watched: float}"))
    status = load(root).status()
    assert (view(status, "activity").current, view(status, "segment").current) == (False, True)
    assert (view(status, "activity").available, view(status, "segment").available, status.well) == (False, True, False)
    assert [one for one in status.warnings if "'activity' was filled under another definition" in one]


def test_a_full_run_that_died(root: Path) -> None:
    project = load(root)
    project.materialize()
    meta = project.online.meta()
    assert meta is not None
    hashed = schema_hash(project.registry.view("activity"))
    begun = ViewMeta(schema_hash=hashed + UNFINISHED, watermark=stamp(NOW))
    assert project.online.complete("activity", begun, lifetime=meta.lifetime, base=None)
    status = project.status()
    assert (view(status, "activity").unfinished, view(status, "segment").unfinished) == (True, False)
    assert view(status, "activity").current
    assert [one for one in status.warnings if "full run of view 'activity'" in one]
    project.materialize()
    assert project.status().warnings == ()


def test_failures_since_the_last_run(root: Path) -> None:
    project = load(root)

    def failed(minutes: int, name: str = "activity") -> FailureRecord:
        return FailureRecord(
            view=name, at=stamp(NOW + timedelta(minutes=minutes)), verb="materialize", message=f"reason {minutes}"
        )

    for minutes in (3, 1, 2):
        project.state.add_failure(failed(minutes))
    project.state.add_failure(failed(9, "segment"))
    assert [one.message for one in view(project.status(), "activity").failures] == ["reason 3", "reason 2", "reason 1"]
    ran = stamp(NOW + timedelta(minutes=2, seconds=30))
    project.state.add_run(
        RunRecord(
            view="activity",
            full=True,
            until=ran,
            known_up_to=ran,
            started=ran,
            readable_from=ran,
            schema_hash="x",
            rows_read=1,
            keys_written=1,
        )
    )
    status = project.status()
    assert [one.message for one in view(status, "activity").failures] == ["reason 3"]
    assert [one.message for one in view(status, "segment").failures] == ["reason 9"]


def test_a_push_log(root: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    path = root / "features.yaml"
    path.write_text(path.read_text().replace("source: data/watched.parquet", "source: {batch: data/watched.parquet}"))
    fix_clock(root)
    project = load(root)
    project.materialize()
    for user in range(3):
        project.push("activity", [{"user_id": f"new{user}", "watched": user}, {"user_id": "u1", "watched": user}])
    found = view(project.status(), "activity")
    assert found.pushes is not None
    assert (found.pushes.rows, found.pushes.pushes, found.pushes.waiting) == (6, 3, 6)
    assert found.pushes.bytes > 0
    assert found.keys == USERS // 2 + 3
    numbers = {one.name: one.value for one in status_samples(project.status()) if one.labels.get("view") == "activity"}
    assert numbers["llmfeatures_view_push_log_waiting_rows"] == 6
    assert view(project.status(), "segment").pushes is None
    code, out, _ = cli("status", "--project", root)
    assert code == 0
    header, row = [line.split() for line in out.splitlines()[-2:]]
    assert header == ["pushed", "view", "rows", "not", "compacted", "pushes", "segments", "parts", "bytes"]
    assert row[:4] == ["activity", "6", "6", "3"]


def test_only_the_newest_run_of_a_view_is_read(root: Path) -> None:
    """The others may be many."""
    project = load(root)
    project.materialize(until=at(10))
    project.materialize()
    for name in ("activity", "segment"):
        (old, _) = sorted((root / ".llmfeatures" / "runs").glob(f"*-{name}-*.json"))
        old.write_text("{")
    assert project.status().warnings == ()
    for name in ("activity", "segment"):
        found = view(project.status(), name).last_run
        assert found is not None
        assert (found, found.until) == (next(iter(project.state.runs(name, newest_first=True))), stamp(NOW))
        with pytest.raises(FormatError, match="cannot be read; remove it"):
            project.runs(name)
        assert sorted(project.state.last_runs()) == ["activity", "segment"]
        for path in (root / ".llmfeatures" / "runs").glob(f"*-{name}-*.json"):
            path.unlink()
        assert project.runs(name) == []  # whatever there is of other views
        assert view(project.status(), name).last_run is None
        project.materialize(until=at(10))
        project.materialize()
        (old, _) = sorted((root / ".llmfeatures" / "runs").glob(f"*-{name}-*.json"))
        old.write_text("{")


def test_records_that_cannot_be_read_are_a_warning(root: Path) -> None:
    project = load(root)
    project.materialize()
    (root / ".llmfeatures" / "runs" / "1-x-y.json").write_text("{")
    status = project.status()
    assert view(status, "segment").last_run is None
    assert [one for one in status.warnings if one.startswith("run records cannot be read: ")]
    assert view(status, "segment").keys == USERS


# Redis


def test_a_store_that_cannot_be_reached_is_shown_with_the_rest(tmp_path: Path) -> None:
    with servers.start_redis() as server:
        url = f"redis://:secret@127.0.0.1:{server.port}/0"
        server.client().config_set("requirepass", "secret")
        project = load(made(tmp_path, online=url))
        project.materialize()
        assert project.status().store.where == f"redis://127.0.0.1:{server.port}/0"
    status = project.status()
    assert not status.store.reachable
    assert "cannot reach the online store" in (status.store.problem or "")
    assert "secret" not in json.dumps(status_json(status))
    found = view(status, "activity")
    assert (found.late, found.watermark, found.keys, found.current) == (None, None, None, None)
    assert found.last_run is not None
    assert (status.late, status.well) == ((), False)
    project.close()


def test_evictions_and_memory(tmp_path: Path, server: Server) -> None:
    project, client = load(made(tmp_path, online=server.url)), server.client()
    project.materialize()
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert project.status().warnings == ()  # without a limit, nothing is evicted
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 500_000)
    status = project.status()
    assert status.store.usage is not None
    assert (status.store.usage.eviction_policy, status.store.usage.evicted_keys) == ("allkeys-lru", 0)
    assert [one for one in status.warnings if "may evict keys when it is full (maxmemory-policy allkeys-lru)" in one]
    client.config_set("maxmemory", 100_000)
    with contextlib.suppress(redis.ResponseError):  # it evicts all that it can, and that is not enough
        client.set("x", "y")
    status = project.status()
    assert status.store.usage is not None
    assert (status.store.usage.evicted_keys or 0) > 0
    assert [one for one in status.warnings if "has evicted" in one]
    project.close()


def test_a_user_who_may_not_count(tmp_path: Path, server: Server) -> None:
    load(made(tmp_path, online=server.url)).materialize()
    rights = "on >secret ~* +echo +hget +hgetall +hmget +select"
    server.client().execute_command("ACL", "SETUSER", "reader", *rights.split())
    path = tmp_path / "llmfeatures.toml"
    path.write_text(path.read_text().replace("redis://", "redis://reader:secret@"))
    status = load(tmp_path).status()
    assert status.well
    assert (view(status, "segment").keys, view(status, "segment").watermark) == (None, NOW)
    assert [one.partition(":")[0] for one in status.warnings] == [
        "memory and evictions are not known",
        "keys are not counted",
    ]
    server.client().execute_command("ACL", "SETUSER", "reader", "+scan", "+info")
    status = load(tmp_path).status()
    assert (view(status, "segment").keys, view(status, "segment").bytes) == (USERS, None)
    assert [one.partition(":")[0] for one in status.warnings] == ["bytes are not known"]


def test_of_many_keys_there_is_an_estimate(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(server.url, "many", timeout=20)
    store.write([activity(user) for user in range(20_000)])
    RedisStore(server.url, "other", timeout=20).write([activity(user) for user in range(10_000)])
    counted = store.usage({ACTIVITY: USER}, seconds=60)
    assert (counted.exact, counted.views["activity"].keys) == (True, 20_000)
    monkeypatch.setattr(online_usage.redis_usage, "__kwdefaults__", {"exact_keys": 5_000})
    guessed = store.usage({ACTIVITY: USER}, seconds=60)
    assert not guessed.exact
    assert 16_000 < (guessed.views["activity"].keys or 0) < 24_000
    whole, part = counted.views["activity"].bytes, guessed.views["activity"].bytes
    assert whole is not None
    assert part is not None
    assert 0.7 < part / whole < 1.4
    store.close()


def test_bytes_are_what_the_server_says(server: Server) -> None:
    """Of views that share a hash, together; beside the server's own word on each key."""
    store, client = RedisStore(server.url, "ns", timeout=20), server.client()
    wide = ViewFields(name="wide", features=tuple(f"f{number}" for number in range(30)))
    row = activity(1)._replace(view=wide, values=("123456",) * 30)
    rows = [activity(user) for user in range(150)]
    store.write(rows)
    store.write([row._replace(key=one.key) for one in rows])
    found = store.usage({ACTIVITY: USER, wide: USER}, seconds=60).views
    told = sum(client.memory_usage(name) or 0 for name in client.scan_iter("ns:user_id:*"))
    assert sum(one.bytes or 0 for one in found.values()) == pytest.approx(told, rel=0.02)
    assert (found["wide"].bytes or 0) > 2 * (found["activity"].bytes or 0) > 0
    store.close()


# The command


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def fix_clock(root: Path, after: timedelta = timedelta(0)) -> None:
    """The command has no other clock than the configuration's."""
    path = root / "llmfeatures.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("now")]
    lines.insert(1, f'now = "{stamp(NOW + after)}"')
    path.write_text("\n".join(lines) + "\n")


def test_the_command(root: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    fix_clock(root)
    code, out, err = cli("status", "--project", root)
    assert code == 1
    assert "late: never filled" in out
    assert cli("materialize", "--project", root)[0] == 0
    code, out, err = cli("status", "--project", root)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("online store: ")
    assert lines[2].split()[:5] == ["view", "state", "watermark", "lag", "cadence"]
    assert lines[4].split()[:6] == ["activity", "ok", "2026-05-07T23:00:00Z", "0s", "1h", "15"]
    assert "clock is fixed at 2026-05-07T23:00:00Z" in err
    fix_clock(root, timedelta(days=2, hours=3))
    code, out, err = cli("status", "--project", root)
    assert code == 1
    assert out.splitlines()[4].split()[:5] == ["activity", "late", "2026-05-07T23:00:00Z", "2d", "3h"]


def test_the_command_when_nothing_answers(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    root = made(tmp_path, online=f"redis://:hidden@127.0.0.1:{servers.free_port()}/0")
    code, out, err = cli("status", "--project", root)
    assert code == 1
    assert "not readable: cannot reach the online store redis://127.0.0.1:" in out
    assert out.splitlines()[3].split()[:2] == ["segment", "unknown"]
    assert "hidden" not in out + err
    assert cli("status", "--projekt", root)[0] == 2
    assert cli("status", "--project", "/")[0] == 2


def test_the_json(root: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    fix_clock(root)
    cli("materialize", "--project", root)
    code, out, _ = cli("status", "--json", "--project", root)
    assert code == 0
    data = json.loads(out)
    assert list(data) == ["project", "well", "now", "fixed_clock", "store", "views", "retrievers", "warnings"]
    assert (data["well"], data["now"], data["fixed_clock"]) == (True, "2026-05-07T23:00:00Z", True)
    assert list(data["store"]) == [
        "kind",
        "where",
        "namespace",
        "access",
        "reachable",
        "problem",
        "format",
        "lifetime",
        "memory_used",
        "memory_limit",
        "eviction_policy",
        "evicted_keys",
        "exact",
    ]
    activity_view = data["views"][1]
    assert list(activity_view) == [
        "view",
        "cadence",
        "watermark",
        "lag",
        "late",
        "available",
        "current",
        "unfinished",
        "keys",
        "bytes",
        "last_run",
        "pushes",
        "failures",
    ]
    assert (activity_view["cadence"], activity_view["lag"], activity_view["keys"]) == (3600.0, 0.0, 15)
    assert set(activity_view["last_run"]) == {"full", "until", "started", "seconds", "rows_read", "keys_written"}


# For a monitoring system


def test_samples(root: Path) -> None:
    load(root).materialize()
    status = load(root, timedelta(hours=3)).status()
    samples = list(status_samples(status))
    numbers: dict[tuple[str, Any], float] = {(one.name, one.labels.get("view")): one.value for one in samples}
    assert len(numbers) == len(samples)
    assert all(one.name.startswith("llmfeatures_") and one.help for one in samples)
    assert all(isinstance(one.value, float) for one in samples)
    assert numbers["llmfeatures_online_store_reachable", None] == 1
    assert numbers["llmfeatures_view_late", "activity"] == 1
    assert numbers["llmfeatures_view_late", "segment"] == 0
    assert numbers["llmfeatures_view_lag_seconds", "activity"] == 3 * 3600
    assert numbers["llmfeatures_view_cadence_seconds", "activity"] == 3600
    assert ("llmfeatures_view_cadence_seconds", "segment") not in numbers
    assert numbers["llmfeatures_view_watermark_timestamp_seconds", "segment"] == NOW.timestamp()
    assert numbers["llmfeatures_view_online_keys", "segment"] == USERS
    names = [one.name for one in samples]
    assert [name for number, name in enumerate(names) if name not in names[:number]] == [
        name for number, name in enumerate(names) if number == 0 or names[number - 1] != name
    ], "a name's samples stand together"


def test_samples_of_a_store_that_is_away(tmp_path: Path) -> None:
    status = load(made(tmp_path, online=f"redis://127.0.0.1:{servers.free_port()}/0")).status()
    samples = {one.name: one.value for one in status_samples(status)}
    assert samples["llmfeatures_online_store_reachable"] == 0
    assert "llmfeatures_view_late" not in samples


def test_words_for_durations() -> None:
    expected = {"0s": 0, "59s": 59, "1m": 60, "1m 1s": 61, "2h 5m": 7503, "3d": 259200, "-1h": -3600}
    assert {words: duration_words(timedelta(seconds=seconds)) for words, seconds in expected.items()} == {
        words: words for words in expected
    }


def test_seconds_of_a_run(root: Path) -> None:
    project = load(root)
    project.materialize()
    run_record = project.runs("segment")[0]
    later = stamp(NOW + timedelta(seconds=2.5))
    assert run_seconds(replace(run_record, started=stamp(NOW), readable_from=later)) == 2.5
