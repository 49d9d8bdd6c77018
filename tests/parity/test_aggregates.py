"""Between two grid points, an aggregated view is what the rule says, online and in history, after any runs."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.clock import from_microseconds
from llmfeatures.schema import Aggregation, FeatureView
from llmfeatures.testing.rule import CREATED, KEY, START, Row
from tests.offline.test_aggregate import ROWS, events, views


def _written(view: FeatureView) -> dict[str, object]:
    features = [
        {
            "name": one.name,
            "function": one.function,
            **({"column": one.column} if one.column else {}),
            **({"n": one.n} if one.n else {}),
            **({"window": f"{one.window.microseconds}us"} if one.window else {}),
            "dtype": str(one.dtype),
        }
        for one in view.features
        if isinstance(one, Aggregation)
    ]
    timed = view.batch is not None and view.batch.created_timestamp is not None
    assert view.cadence is not None
    return {
        "entities": [{"name": "user", "join_key": KEY}],
        "views": [
            {
                "name": "events",
                "entity": "user",
                "source": {"path": "events.parquet", "created_timestamp": CREATED if timed else None},
                "cadence": f"{view.cadence.microseconds}us",
                "lateness": "100us",
                "features": features,
            }
        ],
    }


def _prompt(names: list[str]) -> str:
    """A prompt that prints every feature."""
    policies = "".join(f"  {name}: {{on_missing: none}}\n" for name in names)
    printed = "".join(f"{{% if {one} is none %}}-{{% else %}}{{{{ {one} }}}}{{% endif %}}; " for one in names)
    return f"---\nfeatures:\n{policies}---\nAll: {printed}"


@settings(max_examples=6, deadline=None)
@given(views(), ROWS, st.lists(st.integers(0, 45), min_size=1, max_size=4), st.integers(0, 6), st.data())
def test_online_is_the_rule_within_the_cadence_of_the_last_run(
    view: FeatureView, rows: list[Row], runs: list[int], on: int, data: st.DataObject
) -> None:
    assert view.cadence is not None
    step = view.cadence.microseconds
    last = max(runs)
    at = min(last + on, (START + last) // step * step + step - 1 - START)
    late = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "prompts").mkdir()
        (root / "prompts" / "all.prompt.j2").write_text(_prompt([one.name for one in view.features]))
        (root / "features.yaml").write_text(yaml.safe_dump(_written(view)))
        (root / "llmfeatures.toml").write_text(
            '[project]\nname = "p"\nregistry = "features.yaml"\n[online]\nurl = "sqlite"\n'
        )
        clock: list[datetime] = [from_microseconds(START)]
        project = Project.load(root, now=lambda: clock[0])
        for run in sorted(runs):
            clock[0] = from_microseconds(START + run)
            # rows that land late, within the lateness, are in the file for the last run only
            landed = [row for row, one in zip(rows, late, strict=True) if run == last or not one]
            events(view, landed).write(root)
            project.materialize()
        clock[0] = from_microseconds(START + at)
        names = [one.name for one in view.features]
        for key in ("a", "b"):
            (row,) = project.get_online_features(names, [{KEY: key}])
            expected = events(view, rows).expected((key,), at, "known")
            assert tuple(row[name].value for name in names) == expected.values
            assert all((row[name].status == "missing") == (expected.event is None) for name in names)
            builder = project.builder()
            online = builder.build_context("all", user_id=key)
            rebuilt = builder.build_context("all", user_id=key, as_of=clock[0])
            assert online.messages == rebuilt.messages
            assert online.features == rebuilt.features
        moments = pa.array([clock[0]] * 2, pa.timestamp("us", "UTC"))
        history = project.history("all", pa.table({KEY: ["a", "b"], "event_timestamp": moments})).read_all()
        prompts = [builder.build_context("all", user_id=key).prompt_id for key in ("a", "b")]
        assert history.column("prompt_id").to_pylist() == prompts
        project.close()
