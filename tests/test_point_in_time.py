"""`get_historical_features` against a brute force of plain Python: ttl and statuses, both clocks, on random worlds."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from llmfeatures import Project
from llmfeatures.clock import parse_duration
from llmfeatures.types import parse_dtype
from tests.parity.world import US, World, worlds

LONG_AGO = datetime.min
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def brute_force(world: World, view: dict[str, Any], keys: dict[str, Any], t: datetime, clock: str) -> tuple[str, Any]:
    """The winning row's status and canonical values for one entity key at t: the rule, word for word."""
    names = [
        key for entity in world.registry["entities"] if entity["name"] == view["entity"] for key in entity["join_keys"]
    ]
    dtypes = {name: parse_dtype(dtype) for name, dtype in view["features"].items()}
    best: Any = None
    for row in _rows(world, view["name"], dtypes):
        event, created = row["event_timestamp"], row.get("created")
        if None in (keys[name] for name in names) or any(row[name] != keys[name] for name in names):
            continue
        if event > t or (clock == "known" and created is not None and created > t):
            continue
        text = f"[{','.join(dtype.encode(row[name]) for name, dtype in dtypes.items())}]".encode()
        order = (event, created.replace(tzinfo=None) if created else LONG_AGO, text)
        if best is None or order > best[0]:
            best = (order, row)
    if best is None:
        return "missing", None
    if view.get("ttl") and best[1]["event_timestamp"] < t - parse_duration(view["ttl"]):
        return "expired", None
    return "present", [best[1][name] for name in dtypes]


def _rows(world: World, name: str, dtypes: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a view's file with canonical values."""
    table = world.tables[name]
    columns = {one: _plain(table.column(one)) for one in table.column_names}
    return [
        {one: dtypes[one].canonical(value) if one in dtypes else value for one, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(column: Any) -> list[Any]:
    """Python values: nanoseconds cut to microseconds, a float32 as its shortest decimal."""
    if column.type == pa.timestamp("ns"):
        return [None if one is None else EPOCH + (one // 1000) * US for one in column.cast(pa.int64()).to_pylist()]
    if column.type == pa.float32():
        return [None if one is None else float(one) for one in column.cast(pa.string()).to_pylist()]
    if column.type == pa.list_(pa.float32()):
        return [
            None if one is None else _plain(pa.chunked_array([pa.array(one, pa.float32())]))
            for one in column.to_pylist()
        ]
    return column.to_pylist()


@pytest.mark.parametrize("clock", ["event", "known"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds())
def test_historical_features_agree_with_brute_force(clock: str, world: World) -> None:
    _agree(clock, world)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clock", ["event", "known"])
@settings(max_examples=1_500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds())
def test_historical_features_agree_with_brute_force_at_length(clock: str, world: World) -> None:
    _agree(clock, world)


def _agree(clock: str, world: World) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        root.mkdir()
        world.write(root, "sqlite")
        project = Project.load(root)
        moments = [world.before, world.at - US, world.at, world.at + US]
        rows = [(keys, t) for keys in world.entity_keys for t in moments]
        names = {
            name: parse_dtype(dtype) for one in world.registry["entities"] for name, dtype in one["join_keys"].items()
        }
        spine = pa.table(
            {
                **{
                    name: pa.array([keys.get(name) for keys, _ in rows], dtype.arrow()) for name, dtype in names.items()
                },
                "event_timestamp": pa.array([t for _, t in rows], pa.timestamp("us", "UTC")),
                "number": list(range(len(rows))),
            }
        )
        wanted = [name for view in world.registry["views"] for name in view["features"]]
        made = project.get_historical_features(spine, wanted, clock=clock, statuses=True).read_all().to_pylist()
        project.close()
    assert [row["number"] for row in made] == list(range(len(rows)))
    for row, (keys, t) in zip(made, rows, strict=True):
        for view in world.registry["views"]:
            full = {name: keys.get(name) for name in names}
            status, values = brute_force(world, view, full, t, clock)
            for index, (name, dtype) in enumerate(view["features"].items()):
                expected = None if values is None else values[index]
                expected_status = "null" if status == "present" and expected is None else status
                assert row[f"{name}__status"] == expected_status
                got = row[name]
                if dtype == "json" and got is not None:
                    got = parse_dtype("json").decode(got)
                assert got == expected
