"""History against a brute force of plain Python: ttl, statuses, on-demand features, aggregations, on random worlds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings

from llmfeatures import Project
from llmfeatures.clock import parse_duration
from llmfeatures.registry import Registry
from llmfeatures.testing.rule import Row, aggregated
from llmfeatures.types import parse_dtype
from tests.parity import computed
from tests.parity.world import EVENTS, START, US, World, everything, worlds

LONG_AGO = datetime.min
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seen(NamedTuple):
    """What a feature is at a moment."""

    status: str
    value: Any
    event: datetime | None


def brute_force(
    world: World,
    registry: Registry,
    keys: dict[str, Any],
    t: datetime,
    clock: str,
    max_ages: Mapping[str, timedelta] | None = None,
) -> dict[str, Seen]:
    """Every feature for these keys and inputs at t: the rule, word for word. ``max_ages`` are a prompt's."""
    max_ages = max_ages or {}
    found: dict[str, Seen] = {}
    for view in world.registry["views"]:
        names = _keys_of(world, view["entity"])
        if "cadence" in view:
            features = [one["name"] for one in view["features"]]
            event, values = _aggregated(world, registry, view["name"], names, keys, t, clock)
        else:
            features = list(view["features"])
            event, values = _newest(world, view, names, keys, t, clock)
        ttl = parse_duration(view["ttl"]) if "ttl" in view else None
        for index, name in enumerate(features):
            limits = [one for one in (ttl, max_ages.get(name)) if one is not None]
            found[name] = _settled(event, values and values[index], t, min(limits, default=None))
    for one in world.registry.get("on_demand", ()):
        found[one["name"]] = _computed(one["name"], found, keys, t, max_ages.get(one["name"]))
    return found


def _keys_of(world: World, entity: str) -> list[str]:
    return [key for one in world.registry["entities"] if one["name"] == entity for key in one["join_keys"]]


def _settled(event: datetime | None, value: Any, t: datetime, limit: timedelta | None) -> Seen:
    if event is None:
        return Seen("missing", None, None)
    if limit is not None and event < t - limit:
        return Seen("expired", None, event)
    return Seen("null" if value is None else "present", value, event)


def _newest(
    world: World, view: dict[str, Any], names: list[str], keys: dict[str, Any], t: datetime, clock: str
) -> tuple[datetime | None, list[Any] | None]:
    """The event timestamp and canonical values of the row that wins."""
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
    return (None, None) if best is None else (best[1]["event_timestamp"], [best[1][name] for name in dtypes])


def _aggregated(
    world: World, registry: Registry, view: str, names: list[str], keys: dict[str, Any], t: datetime, clock: Any
) -> tuple[datetime | None, list[Any] | None]:
    """The last change and the values of an aggregated view."""
    wanted = tuple(keys[name] for name in names)
    held = [name for name in EVENTS if name in world.tables[view].column_names]
    events = [
        Row(
            tuple(row[name] for name in names),
            (row["event_timestamp"] - START) // US,
            None if row.get("created") is None else (row["created"] - START) // US,
            tuple(row[name] for name in held),
        )
        for row in _rows(world, view, {name: parse_dtype(name) for name in held})
    ]
    own = [row for row in events if None not in wanted and row.keys == wanted]
    found = aggregated(registry.view(view), held, own, (t - START) // US, clock)
    return (None, None) if found.event is None else (START + found.event * US, list(found.values))


def _ordered(value: Any) -> Any:
    """A value as a function gets it: the names of a JSON object in order."""
    if isinstance(value, dict):
        return {name: _ordered(one) for name, one in sorted(value.items())}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _computed(name: str, found: Mapping[str, Seen], keys: dict[str, Any], t: datetime, limit: timedelta | None) -> Seen:
    """An on-demand feature of `tests.parity.computed`, of features that were found by brute force."""
    reads = {"written": ["f0_0"], "both": ["f0_0", "f1_0"], "doubled": []}[name]
    events = [event for one in reads if (event := found[one].event) is not None]
    oldest = min(events, default=None)
    if limit is not None and oldest is not None and oldest < t - limit:
        return Seen("expired", None, oldest)
    values = [_ordered(found[one].value) for one in reads]
    if name == "written":
        value: Any = computed.written(values[0], t)
    elif name == "both":
        value = computed.both(values[0], values[1], keys["hour"])
    else:
        value = keys["hour"] * 2  # vectorized in the world, and a number here
    return Seen("null" if value is None else "present", value, oldest)


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
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@example(world=everything())
@given(world=worlds())
def test_history_agrees_with_brute_force(clock: str, world: World) -> None:
    _agree(clock, world)


@pytest.mark.heavy
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("clock", ["event", "known"])
@settings(max_examples=1_500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(world=worlds())
def test_history_agrees_with_brute_force_at_length(clock: str, world: World) -> None:
    _agree(clock, world)


def _agree(clock: str, world: World) -> None:
    """Features with no prompt around them, where ttl counts alone; and those of a prompt, with its max_age."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        root.mkdir()
        world.write(root, "sqlite")
        project = Project.load(root, now=lambda: world.at)
        moments = [world.before, world.at - US, world.at, world.at + US]
        rows = [(keys, t) for keys in world.entity_keys for t in moments]
        names = {
            name: parse_dtype(dtype) for one in world.registry["entities"] for name, dtype in one["join_keys"].items()
        } | {"hour": parse_dtype("int")}
        spine = pa.table(
            {
                **{
                    name: pa.array([keys.get(name) for keys, _ in rows], dtype.arrow()) for name, dtype in names.items()
                },
                "event_timestamp": pa.array([t for _, t in rows], pa.timestamp("us", "UTC")),
                "number": list(range(len(rows))),
            }
        )
        dtypes = {feature.name: feature.dtype for view in project.registry.views for feature in view.features}
        dtypes |= {one.name: one.dtype for one in project.registry.on_demand}
        made = project.get_historical_features(spine, list(dtypes), clock=clock, statuses=True).read_all().to_pylist()
        prompts = project.history("p", spine, clock=clock).read_all().to_pylist()
        registry = project.registry
        project.close()
    assert [row["number"] for row in made] == list(range(len(rows)))
    header = yaml.safe_load(world.template.split("---\n")[1])["features"]
    max_ages = {name: parse_duration(one["max_age"]) for name, one in header.items() if "max_age" in one}
    for row, prompt, (given_, t) in zip(made, prompts, rows, strict=True):
        keys = {name: given_.get(name) for name in names}
        for name, expected in brute_force(world, registry, keys, t, clock).items():
            got = Seen(row[f"{name}__status"], _read(dtypes[name], row[name]), row[f"{name}__event_timestamp"])
            assert got == expected, (name, keys, t)
        of_prompt = brute_force(world, registry, keys, t, clock, max_ages)
        for name in prompt["features"]:
            value = _read(dtypes[name], prompt["features"][name])
            got = Seen(prompt["statuses"][name], value, prompt["timestamps"][name])
            assert got == of_prompt[name], (name, keys, t)


def _read(dtype: Any, value: Any) -> Any:
    return dtype.decode(value) if dtype.kind == "json" and value is not None else value
