# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""``llmfeatures features``: features of entities, now or as of a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import (
    HERE,
    AsOfOption,
    ClockOption,
    JsonOption,
    NobodyOption,
    ProjectOption,
    clock_name,
    note_blank,
    parse_pairs,
    split_pairs,
    with_keys,
)

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from llmfeatures.context import FeatureValue
    from llmfeatures.plan import FeaturePlan
    from llmfeatures.project import Project

RowsOption = Annotated[
    list[str] | None,
    typer.Option("--row", metavar="KEYS", help="The join keys of one entity, with commas between; repeatable."),
]


def features(
    words: Annotated[list[str], typer.Argument(metavar="NAME|JOIN_KEY=VALUE", help="Features and join keys.")],
    rows: RowsOption = None,
    nobody: NobodyOption = False,
    as_of: AsOfOption = None,
    clock: ClockOption = None,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show features: value, status and event timestamp. Online, or with --as-of from history."""
    from llmfeatures.errors import RequestError
    from llmfeatures.plan import plan_references
    from llmfeatures.project import Project
    from llmfeatures.types import json_value

    names, pairs = split_pairs(words)
    if not names:
        raise RequestError("no feature is named; llmfeatures list shows them all")
    loaded = Project.load(project)
    plan = plan_references(loaded.registry, names)
    keys = _keys(plan, pairs, rows or [], nobody=nobody)
    chosen = clock_name(clock, as_of)
    found = loaded.get_online_features(names, keys) if as_of is None else _as_of(loaded, plan, keys, as_of, chosen)
    if as_json:
        terminal.write_json(
            [
                {
                    "keys": json_value(row),
                    "features": {name: terminal.feature_json(one) for name, one in values.items()},
                }
                for row, values in zip(keys, found, strict=True)
            ]
        )
    else:
        _show(keys, found)


def _keys(plan: FeaturePlan, pairs: Mapping[str, str], rows: Sequence[str], *, nobody: bool) -> list[dict[str, Any]]:
    """The join keys of each row: the ``name=value`` words count for every ``--row``."""
    written = [dict(pairs)] if not rows else [{**pairs, **split_pairs(row.split(","))[1]} for row in rows]
    names = " and ".join(dict.fromkeys(ref.role.entity.name for ref in plan.outputs))
    parsed = [parse_pairs(one, {**plan.parameters, **plan.inputs}, f"entity {names!r}") for one in written]
    for one in parsed:
        note_blank(one, plan.parameters)
    return [with_keys(one, plan.parameters, nobody=nobody) for one in parsed]


def _as_of(
    project: Project, plan: FeaturePlan, keys: Sequence[Mapping[str, Any]], as_of: str, clock: str
) -> list[dict[str, FeatureValue]]:
    """The features of rows of join keys at one moment, from history."""
    from llmfeatures.builder import moment

    at = moment("--as-of", as_of)
    return found_features(project, plan, spine_of(plan, [(plan.given(row), at) for row in keys]), clock)


def spine_of(plan: FeaturePlan, rows: Sequence[tuple[Mapping[str, Any], datetime]]) -> pa.Table:
    """A spine of canonical join keys and inputs, each with its moment."""
    import pyarrow as pa

    from llmfeatures import columns

    taken = {**plan.parameters, **plan.inputs}
    arrays = {name: columns.array_of(dtype, [row[name] for row, _ in rows]) for name, dtype in taken.items()}
    return pa.table({**arrays, "event_timestamp": pa.array([at for _, at in rows], pa.timestamp("us", "UTC"))})


def found_features(project: Project, plan: FeaturePlan, spine: pa.Table, clock: str) -> list[dict[str, FeatureValue]]:
    """The features of each row of a spine, from history."""
    from llmfeatures import columns
    from llmfeatures.context import FeatureValue

    names = [ref.name for ref in plan.answers]
    table = project.get_historical_features(spine, names, clock=clock, statuses=True).read_all()
    found: list[dict[str, FeatureValue]] = [{} for _ in range(spine.num_rows)]
    for ref in plan.answers:
        values = columns.python_values(ref.dtype, table.column(ref.column))
        statuses = table.column(f"{ref.column}__status").to_pylist()
        events = table.column(f"{ref.column}__event_timestamp").to_pylist()
        for row, one in enumerate(zip(values, statuses, events, strict=True)):
            found[row][ref.name] = FeatureValue(*one)
    return found


def _show(keys: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, FeatureValue]]) -> None:
    shown = list(keys[0]) if len(keys) > 1 else []
    rows = [
        (
            *("(nobody)" if row[key] is None else terminal.value_text(row[key]) for key in shown),
            name,
            terminal.value_text(one.value),
            one.status,
            terminal.moment_text(one.event_timestamp),
        )
        for row, values in zip(keys, found, strict=True)
        for name, one in values.items()
    ]
    terminal.table((*shown, "feature", "value", "status", "event timestamp"), rows)
