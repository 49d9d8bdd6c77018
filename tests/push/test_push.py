"""`Project.push`: what is taken, what is refused, and who sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import (
    ConfigError,
    PushedRowsError,
    RequestError,
    SourceError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UnknownNameError,
)
from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.service.push import caution_of, refusal_of
from llmfeatures.types import parse_dtype
from tests import servers

NOW = datetime(2026, 5, 7, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
MOMENT = pa.timestamp("us", "UTC")
FEATURES = {"genre": "str", "score": "float", "count": "int"}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def make(
    root: Path, *, features: Any = FEATURES, batch: Any = None, online: str = "sqlite", **view: Any
) -> tuple[Project, Clock]:
    """A project with a view ``taste`` that takes pushes, and ``still``, which does not."""
    (root / "prompts").mkdir(parents=True, exist_ok=True)
    names = [one if isinstance(one, str) else one["name"] for one in features]
    header = "".join(f"  {name}: {{on_missing: none}}\n" for name in names)
    body = "".join(f"{{{{ {name} | or_else('none') }}}} " for name in names)
    (root / "prompts" / "p.prompt.j2").write_text(f"---\nfeatures:\n{header}---\n{body}")
    source = None if batch is None else {"path": "taste.parquet", "created_timestamp": "created"}
    if batch is not None:
        pq.write_table(batch, root / "taste.parquet")
    registry = {
        "entities": [{"name": "user", "join_key": "user_id"}],
        "views": [
            {"name": "taste", "entity": "user", "source": {"batch": source}, "features": features, **view},
            {"name": "still", "entity": "user", "source": "still.parquet", "features": {"plain": "int"}},
        ],
    }
    pq.write_table(
        pa.table({"user_id": ["a"], "event_timestamp": pa.array([NOW - HOUR], MOMENT), "plain": [1]}),
        root / "still.parquet",
    )
    (root / "features.yaml").write_text(yaml.safe_dump(registry))
    (root / "llmfeatures.toml").write_text(
        f'[project]\nname = "t{abs(hash(str(root))) % 10**9}"\nregistry = "features.yaml"\n'
        f'[online]\nurl = "{online}"\ntimeout = "5s"\n'
    )
    clock = Clock()
    return Project.load(root, now=clock), clock


def row(user: str | None = "a", genre: Any = "drama", score: Any = 0.5, count: Any = 1, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "genre": genre, "score": score, "count": count, **more}


def history(project: Project, *asks: tuple[str, datetime], features: Any = ("genre", "score", "count")) -> list[Any]:
    users, moments = zip(*asks, strict=True)
    spine = pa.table({"user_id": list(users), "event_timestamp": pa.array(moments, MOMENT)})
    found = project.get_historical_features(spine, list(features)).read_all()
    return list(zip(*(found.column(name).to_pylist() for name in features), strict=True))


def online(project: Project, user: str = "a", name: str = "genre") -> Any:
    [found] = project.get_online_features([name], [{"user_id": user}])
    return found[name].value, found[name].status


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def test_a_push_is_in_history_and_online_at_once(tmp_path: Path, url: str) -> None:
    project, clock = make(tmp_path, online=url)
    project.materialize()
    report = project.push("taste", [row(), row("b", None, 1, 2)])
    assert (report.rows, report.repeated, report.online, report.problem) == (2, False, True, None)
    assert online(project) == ("drama", "present")
    assert online(project, "b") == (None, "null")
    assert history(project, ("a", NOW), ("b", NOW), ("a", NOW - timedelta(microseconds=1))) == [
        ("drama", 0.5, 1), (None, 1.0, 2), (None, None, None)
    ]  # fmt: skip
    # an older event loses, a newer one wins; history has each at its time
    clock.now += HOUR
    project.push("taste", [row(genre="old", event_timestamp=NOW - HOUR), row(genre="new")])
    assert online(project) == ("new", "present")
    found = history(project, ("a", NOW - HOUR), ("a", NOW), ("a", NOW + HOUR))
    assert [one[0] for one in found] == [None, "drama", "new"]  # the late one had not arrived by then
    builder = project.builder()
    built, rebuilt = builder.build_context("p", user_id="a"), builder.build_context("p", user_id="a", as_of=clock.now)
    assert (built.messages, built.features) == (rebuilt.messages, rebuilt.features)
    assert [one.where for one in project.check()] == ["view still"]
    project.close()


def test_a_push_alone_fills_no_view(tmp_path: Path) -> None:
    project, _ = make(tmp_path)
    project.push("taste", [row()])
    assert online(project) == ("drama", "present")
    assert online(project, "nobody")[1] == "unavailable"
    project.materialize()
    assert online(project, "nobody")[1] == "missing"
    project.close()


def test_a_repeat_is_known_by_its_id(tmp_path: Path) -> None:
    project, clock = make(tmp_path)
    first = project.push("taste", [row()], push_id="one")
    clock.now += HOUR
    again = project.push("taste", [row(genre="other"), row("b")], push_id="one")
    assert (first.repeated, again.repeated, again.rows, again.online) == (False, True, 1, True)
    assert history(project, ("a", clock.now), ("b", clock.now)) == [("drama", 0.5, 1), (None, None, None)]
    assert online(project) == ("drama", "present")
    project.pushes.compact("taste")
    other = Project.load(tmp_path, now=clock)
    assert other.push("taste", [row("b")], push_id="one").repeated
    assert not other.push("taste", [row("b")], push_id="two").repeated
    assert len({project.push("taste", [row("c")]).push_id for _ in range(3)}) == 3
    assert project.pushes.size("taste").rows == 5
    for one in (project, other):
        one.close()


def test_a_repeat_brings_online_what_the_first_did_not(tmp_path: Path) -> None:
    """The first one died between the log and the online store; its rows are the ones that count."""
    project, clock = make(tmp_path)
    project.push("taste", [row(genre="first")], push_id="one")
    project.close()
    (tmp_path / ".llmfeatures" / "online.sqlite").unlink()
    clock.now += HOUR
    again = Project.load(tmp_path, now=clock)
    assert again.push("taste", [row(genre="second")], push_id="one").repeated
    [found] = again.get_online_features(["genre"], [{"user_id": "a"}])
    assert (found["genre"].value, found["genre"].event_timestamp) == ("first", NOW)
    again.close()


def test_bad_rows_are_named_and_nothing_is_pushed(tmp_path: Path) -> None:
    project, _ = make(tmp_path)
    late = NOW + timedelta(minutes=5, microseconds=1)
    bad = [
        row(count="secret"),
        {"user_id": "a", "genre": "x", "score": 1.0},
        row(None),
        row(extra=1),
        row(event_timestamp=late),
        row(created_timestamp=late),
        row(event_timestamp="yesterday"),
        row(event_timestamp=NOW + timedelta(minutes=5)),
    ]
    with pytest.raises(PushedRowsError) as caught:
        project.push("taste", bad)
    assert [(one[0], one[1]) for one in caught.value.problems] == [
        (0, "count"), (1, "count"), (2, "user_id"), (3, "extra"), (4, "event_timestamp"), (5, "created_timestamp"),
        (6, "event_timestamp"),
    ]  # fmt: skip
    assert "row 0, column 'count': a str is no int" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "yesterday" not in str(caught.value)
    with pytest.raises(PushedRowsError, match="and 980 more") as caught:
        project.push("taste", [row(count=1.5)] * 1_000)
    assert (len(caught.value.problems), caught.value.total) == (20, 1_000)
    assert project.pushes.size("taste").rows == 0
    assert online(project)[1] == "unavailable"
    for rows in (5, "rows", [1], {"user_id": "a"}, None):
        with pytest.raises(RequestError):
            project.push("taste", rows)
    for push_id in ("", "x" * 201, "a\nb", 7):
        with pytest.raises(RequestError, match="push_id is a text"):
            project.push("taste", [row()], push_id=push_id)  # pyright: ignore[reportArgumentType]
    project.close()


def test_who_takes_no_pushes(tmp_path: Path) -> None:
    project, _ = make(tmp_path)
    with pytest.raises(RequestError, match=r"'still' takes no pushes; the views that do are: taste"):
        project.push("still", [])
    with pytest.raises(UnknownNameError, match="did you mean 'taste'"):
        project.push("tast", [])
    with (tmp_path / "llmfeatures.toml").open("a") as file:
        file.write('access = "read"\n')
    with pytest.raises(StoreReadOnlyError, match="push from one that may write"):
        Project.load(tmp_path).push("taste", [row()])
    counted: Any = [{"name": "n", "function": "count"}]
    aggregated, _ = make(tmp_path / "other", features=counted, cadence="1d")
    with pytest.raises(RequestError, match=r"aggregates, so it takes no pushes: .* to a view with a plain feature"):
        aggregated.push("taste", [])
    aggregated.close()
    project.close()


def test_an_arrow_table(tmp_path: Path) -> None:
    project, _ = make(tmp_path)
    table = pa.table(
        {
            "user_id": pa.array(["a", "b"]).dictionary_encode(),
            "genre": ["x", None],
            "score": pa.array([0.1, float("nan")], pa.float32()),
            "count": pa.array([1, 2], pa.int8()),
            "event_timestamp": pa.array([None, 1_000_000_001], pa.timestamp("ns")),
        }
    )
    assert project.push("taste", table).rows == 2
    assert history(project, ("a", NOW), ("b", NOW)) == [("x", 0.1, 1), (None, None, 2)]
    assert project.push("taste", table.to_batches()[0]).rows == 2
    assert project.push("taste", table.slice(0, 0)).rows == 0
    for wrong, said in (
        (table.drop_columns(["count"]), "no column 'count'"),
        (table.append_column("more", pa.array([1, 2])), "no column 'more'"),
        (table.set_column(3, "count", pa.array([1.0, 2.0])), "'count' of type double is no int"),
        (table.set_column(0, "user_id", pa.array(["a", None])), "row 1, column 'user_id'"),
    ):
        with pytest.raises(PushedRowsError, match=said):
            project.push("taste", wrong)
    assert project.pushes.size("taste").rows == 4
    project.close()


def test_the_online_store_fails_and_materialize_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also rows with old times: an incremental run looks at when they came."""
    project, clock = make(tmp_path)
    project.push("taste", [row("z")])
    project.materialize()
    clock.now += HOUR

    def down(*_args: object, **_options: object) -> None:
        raise StoreUnavailableError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(project.online, "write", down)
        old = NOW - 100 * HOUR
        report = project.push("taste", [row(event_timestamp=old, created_timestamp=old)])
    assert (report.rows, report.online, report.problem) == (1, False, "the store is away")
    (failure,) = project.state.failures("taste")
    assert (failure.verb, failure.message) == ("push", "the store is away")
    assert online(project)[1] == "missing"
    assert history(project, ("a", NOW)) == [("drama", 0.5, 1)]
    (done, _) = project.materialize().views
    assert not done.full
    assert online(project) == ("drama", "present")
    project.close()


@pytest.mark.parametrize("full", [False, True])
def test_pushes_while_materialize_runs(tmp_path: Path, redis_url: str, full: bool) -> None:
    """A full run removes none of them, and an incremental one brings those online that are not: old events, too."""
    make(tmp_path, online=redis_url)[0].close()
    project, other = Project.load(tmp_path), Project.load(tmp_path)
    project.materialize()
    old = {"event_timestamp": "2020-01-01T00:00Z", "created_timestamp": "2020-01-01T00:00Z"}
    users = [f"u{number}" for number in range(40)]

    def push() -> None:
        with pytest.MonkeyPatch.context() as patched:
            if not full:
                patched.setattr(other, "online", Away())
            for user in users:
                assert other.push("taste", [row(user, **old)]).online == full

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push)
        while not pushing.done():
            project.materialize(full=full)
        pushing.result()
    if not full:
        (done, _) = project.materialize().views
        assert not done.full
    found = project.get_online_features(["genre"], [{"user_id": user} for user in users])
    assert [one["genre"].value for one in found] == ["drama"] * len(users)
    for one in (project, other):
        one.close()


class Away:
    """An online store that nobody reaches."""

    def write(self, *_args: object, **_options: object) -> None:
        raise StoreUnavailableError("the store is away")

    def close(self) -> None: ...


@contextlib.contextmanager
def stopped(process: int) -> Generator[None]:
    """A process that hangs for the length of a block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """A SQLite file that another process changes for the length of a block."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def with_timeout(root: Path, timeout: str) -> Project:
    """The project of `make` with another ``[online] timeout``."""
    path = root / "llmfeatures.toml"
    path.write_text(path.read_text().replace('timeout = "5s"', f'timeout = "{timeout}"'))
    return Project.load(root, now=Clock())


@pytest.mark.parametrize(("timeout", "limit"), [("10ms", "1 s"), ("1100ms", "1.1 s")])
def test_a_store_that_hangs_keeps_a_push_no_longer_than_its_limit(tmp_path: Path, timeout: str, limit: str) -> None:
    """Whether the push finds a connection or must open one; and however many rows it has."""
    with servers.start_redis() as server:
        make(tmp_path, online=server.url)[0].close()
        project = with_timeout(tmp_path, timeout)
        assert project.push("taste", [row("before")]).online
        with stopped(server.process.pid):
            for rows in ([row()], [row(f"u{number}") for number in range(3_000)]):
                report = project.push("taste", rows)
                assert (report.rows, report.online) == (len(rows), False)
                assert isinstance(report.cause, StoreUnavailableError)
                assert f"did not answer within {limit}:" in (report.problem or "")
        project.materialize()
        assert online(project)[0] == online(project, "u2999")[0] == "drama"
        project.close()


def test_a_locked_file_keeps_a_push_no_longer_than_its_limit(tmp_path: Path) -> None:
    make(tmp_path)[0].close()
    project = with_timeout(tmp_path, "10ms")
    assert project.push("taste", [row("before")]).online
    with locked(tmp_path / ".llmfeatures" / "online.sqlite"):
        report = project.push("taste", [row()])
    assert not report.online
    assert isinstance(report.cause, StoreUnavailableError)
    assert "was locked by another process for more than 1 s" in (report.problem or "")
    project.materialize()
    assert online(project)[0] == "drama"
    project.close()


def test_more_rows_than_one_write_takes(tmp_path: Path, redis_url: str) -> None:
    project, _ = make(tmp_path, online=redis_url)
    report = project.push("taste", [row(f"u{number % 2_500}", count=number) for number in range(5_000)])
    assert (report.rows, report.online, report.problem) == (5_000, True, None)
    project.materialize()
    assert [online(project, user, name="count")[0] for user in ("u0", "u2499")] == [2_500, 4_999]
    project.close()


def test_a_repeat_of_a_push_to_a_view_that_has_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are not of the view any more, and the first push may have died before it wrote them online."""
    project, _ = make(tmp_path, features={"genre": "str"})
    with monkeypatch.context() as patched:
        patched.setattr(project, "online", Away())
        assert not project.push("taste", [{"user_id": "a", "genre": "x"}], push_id="k").online
    project.close()
    project, _ = make(tmp_path, features={"genre": "str", "count": "int"})
    report = project.push("taste", [{"user_id": "a", "genre": "x", "count": 1}], push_id="k")
    assert (report.rows, report.repeated, report.online, report.cause) == (1, True, False, None)
    assert "view 'taste' has changed since" in (report.problem or "")
    assert "run llmfeatures materialize taste" in (report.problem or "")
    assert report.problem in [one.message for one in project.status().views[0].failures]
    project.materialize()
    assert online(project)[0] == "x"
    project.close()


def test_what_a_service_says_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, _ = make(tmp_path)
    for kind, says in (("overlay", "does not survive the container"), ("ext4", ""), ("tmpfs", "")):
        monkeypatch.setattr("llmfeatures.push_log.mounts._kind_of", lambda *_, kind=kind: kind)
        assert says in (caution_of(project) or "")
        assert (caution_of(project) is None) is (kind != "overlay")
        assert (refusal_of(project) is None) is (kind != "tmpfs")
    project.close()


def test_a_wrong_configuration_is_said_before_anything_is_kept(tmp_path: Path) -> None:
    project, _ = make(tmp_path, online="other://nowhere")
    with pytest.raises(ConfigError):
        project.push("taste", [row()])
    assert project.pushes.size("taste").pushes == 0
    project.close()


def batch_table(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    times = pa.array([NOW - 5 * HOUR] * count, pa.timestamp("ns"))
    return pa.table({"event_timestamp": times, "created": pa.nulls(count, MOMENT), **columns})


def test_a_batch_history_goes_on(tmp_path: Path) -> None:
    """Its columns are of other types than pushed ones; each value is what it is alone."""
    features = {
        "f": "float", "i": "int", "j": "json", "t": "timestamp", "d": "decimal(10,3)", "e": "enum[x,y]",
        "l": "list[float]", "n": "str",
    }  # fmt: skip
    batch = batch_table(
        user_id=pa.array(["a", "b"]).dictionary_encode(),
        f=pa.array([0.1, float("inf")], pa.float32()),
        i=pa.array([1, -1], pa.int8()),
        j=pa.array([{"k": 1.5, "z": None}, None], pa.struct([("k", pa.float64()), ("z", pa.int32())])),
        t=pa.array([1_234_567_891, None], pa.timestamp("ns")),
        d=pa.array([Decimal("1.5"), None], pa.decimal128(5, 1)),
        e=pa.array(["x", "y"]).dictionary_encode(),
        l=pa.array([[0.1], []], pa.list_(pa.float32())),
        n=pa.nulls(2),
    )
    project, clock = make(tmp_path, features=features, batch=batch)
    pushed = {
        "user_id": "a", "f": 1e300, "i": 2**62, "j": {"k": [1]}, "t": NOW, "d": Decimal("-7.125"), "e": "y", "l": [0.1],
        "n": "new",
    }  # fmt: skip
    project.push("taste", [pushed])
    clock.now += HOUR
    names = list(features)
    before = NOW - HOUR
    for compacted in (False, True):
        if compacted:
            project.pushes.compact("taste")
            project.push("taste", [{**pushed, "n": "newer"}])
        found = history(project, ("a", before), ("b", before), ("a", NOW), ("a", clock.now), features=names)
        assert found[0] == (
            0.1, 1, '{"k":1.5,"z":null}', datetime(1970, 1, 1, 0, 0, 1, 234567, tzinfo=UTC), Decimal("1.500"), "x",
            [0.1], None,
        )  # fmt: skip
        assert found[1] == (None, -1, None, None, None, "y", [], None)
        assert found[2] == (1e300, 2**62, '{"k":[1]}', NOW, Decimal("-7.125"), "y", [0.1], "new")
        assert found[3][-1] == ("newer" if compacted else "new")
    project.materialize()
    for user, n in (("a", "newer"), ("b", None)):
        built = project.builder().build_context("p", user_id=user)
        rebuilt = project.builder().build_context("p", user_id=user, as_of=clock.now)
        assert (built.messages, built.features) == (rebuilt.messages, rebuilt.features)
        assert built.features["n"].value == n
    assert [one for one in project.check() if one.severity == "error"] == []
    project.close()


def test_ties_between_batch_and_pushes_are_settled_by_the_row_text(tmp_path: Path) -> None:
    for number, (held, pushed) in enumerate([(0.5, 0.25), (0.25, 0.5), (0.1, 0.1)]):
        features = {"f": "float"}
        event = NOW - 5 * HOUR
        table = batch_table(user_id=["a"], f=pa.array([held], pa.float32())).set_column(
            1, "created", pa.array([event], MOMENT)
        )
        project, _ = make(tmp_path / str(number), features=features, batch=table)
        at = {"event_timestamp": event, "created_timestamp": event}
        project.push("taste", [{"user_id": "a", "f": pushed, **at}])
        assert history(project, ("a", NOW), features=["f"]) == [(max(held, pushed),)]
        assert history(project, ("a", NOW), ("a", NOW - HOUR), features=["f"]) == [(max(held, pushed),)] * 2
        project.materialize()
        assert online(project, name="f")[0] == max(held, pushed)
        project.close()


def test_a_view_changes(tmp_path: Path) -> None:
    project, clock = make(tmp_path, features={"genre": "str", "count": "int"})
    project.push("taste", [{"user_id": "a", "genre": "x", "count": 3}])
    project.close()
    clock.now += HOUR
    # a feature more, one less, and one of a wider dtype: older rows are read as what they are
    project, _ = make(tmp_path, features={"count": "float", "score": "float"})
    project.push("taste", [{"user_id": "b", "count": 1.5, "score": 2}])
    asked = history(project, ("a", clock.now), ("b", clock.now), features=["count", "score"])
    assert asked == [(3.0, None), (1.5, 2.0)]
    project.pushes.compact("taste")
    assert history(project, ("a", clock.now), ("b", clock.now), features=["count", "score"]) == asked
    project.close()
    project, _ = make(tmp_path, features={"count": "bool"})
    (problem, *_) = project.check()
    assert "feature 'count' is bool, and pushed rows hold it as" in problem.message
    with pytest.raises(SourceError, match="give the feature another name"):
        history(project, ("a", clock.now), features=["count"])
    project.close()


def test_spines_and_exports_know_pushed_rows(tmp_path: Path) -> None:
    project, _ = make(tmp_path)
    project.push("taste", [row("only pushed", event_timestamp=NOW - HOUR)])
    spine = project.spine("p", every="1h", since="3h")
    assert set(spine.column("user_id").to_pylist()) == {"only pushed", "a"}
    views = [project.registry.view("taste")]
    versions = project.offline.versions(views)  # pyright: ignore[reportAttributeAccessIssue]
    project.pushes.compact("taste")
    assert project.offline.versions(views) == versions  # pyright: ignore[reportAttributeAccessIssue]
    project.push("taste", [row()])
    assert project.offline.versions(views) != versions  # pyright: ignore[reportAttributeAccessIssue]
    project.close()


VALUES = {
    "str": st.text(max_size=5),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "date": st.dates(),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(lambda one: one.replace(tzinfo=UTC)),
    "decimal(12,4)": st.decimals(-(10**7), 10**7, places=4),
    "list[int]": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    "json": st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=4,
    ),
}


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_pushed_values_are_the_same_online_and_in_history(data: st.DataObject, tmp_path_factory: Any) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    features = {f"f{number}": dtype for number, dtype in enumerate(dtypes)}
    project, clock = make(tmp_path_factory.mktemp("push"), features=features)
    project.materialize()
    ages = st.integers(0, 3)
    drawn = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), ages, ages, *(st.none() | VALUES[one] for one in dtypes)), max_size=6)
    )
    for user, event, created, *values in drawn:
        clock.now += timedelta(seconds=1)
        times = {"event_timestamp": clock.now - event * HOUR, "created_timestamp": clock.now - created * HOUR}
        project.push("taste", [{"user_id": user, **dict(zip(features, values, strict=True)), **times}])
        if data.draw(st.booleans()):
            project.pushes.compact("taste")
    expected = {name: parse_dtype(one) for name, one in features.items()}
    builder = project.builder()
    for user in "ab":
        built = builder.build_context("p", user_id=user)
        rebuilt = builder.build_context("p", user_id=user, as_of=clock.now)
        assert built.features == rebuilt.features
        assert built.prompt_id == rebuilt.prompt_id
        assert set(built.features) == set(expected)
    project.close()


def test_two_projects_see_one_log(tmp_path: Path) -> None:
    project, clock = make(tmp_path)
    other = Project.load(tmp_path, now=clock)
    project.push("taste", [row()])
    assert history(other, ("a", NOW)) == [("drama", 0.5, 1)]
    assert isinstance(other.pushes, FolderPushLog)
    for one in (project, other):
        one.close()
