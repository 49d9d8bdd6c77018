"""On-demand features in prompts: online, in batches, async, as of a moment and in history, with one meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import LLMFeaturesError, OnDemandError, PromptError, RenderError, RequestError, SpineError
from tests.projects import NOW, SEGMENTS, WATCHED, at, segment, watched, write_rows

REGISTRY = """
import pyarrow as pa
from pyarrow import compute as pc

from llmfeatures import Entity, FeatureView, Registry, on_demand

user = Entity("user", "user_id")
segments = FeatureView("segments", user, "data/segments.parquet", {"segment": "str"}, ttl="10d")
activity = FeatureView("activity", user, "data/activity.parquet", {"watched": "int"})


@on_demand(user, "enum[light,heavy]", inputs={"hour": "int"}, description="how much they watch")
def viewer_kind(watched, hour):
    if hour == 13:
        raise ValueError("secret")
    if hour == 14:
        return "neither"
    return None if watched is None else "heavy" if watched > hour else "light"


@on_demand(user, "str")
def greeting(user_id, segment, as_of):
    return f"{user_id} of {segment} at {as_of:%H:%M}"


@on_demand(user, "int", vectorized=True)
def doubled(watched):
    return pc.multiply(watched, 2)


registry = Registry([segments, activity, viewer_kind, greeting, doubled])
"""
PROMPTS = {
    "kind": "---\nfeatures:\n  viewer_kind: {default: unknown}\n---\n{{ viewer_kind }}\n",
    "bare": "{{ viewer_kind }}\n",
    "all": (
        "---\ninputs:\n  hour: {type: int, default: 5}\nfeatures:\n  watched: {default: 0, max_age: 1d}\n"
        "  viewer_kind: {default: unknown}\n  doubled: {on_missing: none}\n---\n"
        "{{ watched }} {{ viewer_kind }} {{ greeting }} {{ doubled | or_else('none') }} {{ hour }}\n"
    ),
    "aged": "---\nfeatures:\n  greeting: {default: nothing, max_age: 1h}\n---\n{{ greeting }}\n",
    "plain": "---\nfeatures:\n  watched: {default: 0}\n---\n{{ watched }}\n",
    "dotted": "---\nentities: {viewer: user}\n---\n{{ viewer.greeting }}\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield from _project(tmp_path)


def _project(root: Path, registry: str = REGISTRY, prompts: dict[str, str] = PROMPTS) -> Iterator[Project]:
    counts = [watched("a", 9, at(9)), watched("a", 3, at(9, day=5)), watched("n", None, at(8))]
    write_rows(root / "data/activity.parquet", counts, WATCHED)
    rows = [segment("a", "fans", at(10), at(10)), segment("n", "new", at(11), at(11))]
    write_rows(root / "data/segments.parquet", rows, SEGMENTS)
    (root / "registry.py").write_text(registry)
    (root / "prompts").mkdir(exist_ok=True)
    for name, body in prompts.items():
        (root / f"prompts/{name}.prompt.j2").write_text(body)
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "t"\nregistry = "registry.py"\nprompts = "prompts"\n[online]\nurl = "sqlite:o.db"\n'
    )
    loaded = Project.load(root, now=lambda: NOW)
    loaded.materialize()
    yield loaded


def _text(ctx: Any) -> str:
    return ctx.messages[0]["content"]


def test_online(project: Project) -> None:
    builder = project.builder()
    ctx = builder.build_context("kind", user_id="a", hour=5)
    assert _text(ctx) == "heavy"
    found = ctx.features["viewer_kind"]
    assert (found.value, found.status, found.event_timestamp) == ("heavy", "present", at(9))
    assert ctx.features["watched"].value == 9
    assert "watched" not in ctx.values
    assert ctx.values["viewer_kind"] == "heavy"
    origin = ctx.manifest.features["viewer_kind"]
    assert (origin.view, origin.policy, origin.dtype) == ("on demand", "default", "enum[light,heavy]")
    assert ctx.manifest.inputs["hour"] == "int"
    null = builder.build_context("kind", user_id="n", hour=5)
    assert (_text(null), null.features["viewer_kind"].status) == ("unknown", "null")
    assert _text(builder.build_context("dotted", viewer_user_id="a")) == "a of fans at 23:00"


def test_what_a_call_must_give(project: Project) -> None:
    with pytest.raises(RequestError, match="hour"):
        project.builder().build_context("kind", user_id="a")
    with pytest.raises(RequestError, match="hour"):
        project.builder().build_context("kind", user_id="a", hour="x")
    with pytest.raises(LLMFeaturesError, match="viewer_kind"):
        project.builder().build_context("bare", user_id="n", hour=1)
    assert _text(project.builder().build_context("all", user_id="a")) == "9 heavy a of fans at 23:00 18 5"


def test_the_oldest_part_decides_the_age(project: Project) -> None:
    ctx = project.builder().build_context("aged", user_id="a")
    assert (_text(ctx), ctx.features["greeting"].status) == ("nothing", "expired")
    assert ctx.features["greeting"].event_timestamp == at(10)
    assert _text(project.builder().build_context("aged", user_id="a", as_of=at(11))) == "a of fans at 11:00"


def test_max_age_of_a_part_counts(project: Project) -> None:
    early = project.builder().build_context("all", user_id="a", as_of=at(1))
    assert early.features["watched"].status == "expired"
    assert early.features["viewer_kind"].status == "null"


def test_a_failure_shows_no_value(project: Project) -> None:
    for hour in (13, 14):
        with pytest.raises(OnDemandError, match="viewer_kind") as caught:
            project.builder().build_context("kind", user_id="a", hour=hour)
        assert "secret" not in str(caught.value)
        assert "neither" not in str(caught.value)
        assert "registry.py:" in str(caught.value)
    with pytest.raises(RenderError, match="row 1"):
        project.builder().build_contexts("kind", [{"user_id": "a", "hour": 1}, {"user_id": "a", "hour": 13}])


def test_unavailable_parts_do_not_run_the_function(tmp_path: Path) -> None:
    loaded = next(_project(tmp_path))
    (tmp_path / "o.db").unlink()
    ctx = Project.load(tmp_path, now=lambda: NOW).builder().build_context("kind", user_id="a", hour=13)
    assert (_text(ctx), ctx.features["viewer_kind"].status) == ("unknown", "unavailable")
    assert ctx.manifest.degraded
    loaded.builder().close()


def test_async_and_inject(project: Project) -> None:
    builder = project.async_builder()

    @builder.inject("kind")
    async def run(user_id: str, hour: int, ctx: Any) -> str:
        return _text(ctx)

    async def both() -> tuple[str, str]:
        ctx = await builder.build_context("kind", user_id="a", hour=5, as_of=at(12))
        return _text(ctx), await run("a", 20)

    assert asyncio.run(both()) == ("heavy", "light")


def test_feature_requests(project: Project) -> None:
    (found,) = project.get_online_features(["viewer_kind", "segment", "doubled"], [{"user_id": "a", "hour": 5}])
    assert list(found) == ["viewer_kind", "segment", "doubled"]
    assert [one.value for one in found.values()] == ["heavy", "fans", 18]
    with pytest.raises(RequestError, match="hour"):
        project.get_online_features(["viewer_kind"], [{"user_id": "a"}])
    with pytest.raises(OnDemandError, match="row 0"):
        project.get_online_features(["viewer_kind"], [{"user_id": "a", "hour": 13}])
    spine = pa.table({"user_id": ["a", "n", None], "hour": [5, 5, 5], "event_timestamp": [at(12)] * 3})
    names = ["viewer_kind", "user.segment", "doubled"]
    table = project.get_historical_features(spine, names, statuses=True).read_all()
    assert table.column("viewer_kind").to_pylist() == ["heavy", None, None]
    assert table.column("doubled").to_pylist() == [18, None, None]
    assert table.column("user__segment").to_pylist() == ["fans", "new", None]
    assert table.column("viewer_kind__event_timestamp").to_pylist() == [at(9), at(8), None]
    assert "watched" not in table.column_names
    with pytest.raises(SpineError, match="hour"):
        project.get_historical_features(spine.drop_columns(["hour"]), names).read_all()
    bad = spine.set_column(1, "hour", pa.array([1, 13, 1]))
    with pytest.raises(RenderError, match="row 1"):
        project.get_historical_features(bad, names).read_all()


def test_a_failing_row_of_history_is_an_error_and_others_go_on(project: Project) -> None:
    spine = pa.table({"user_id": ["a"] * 4, "hour": [5, 13, None, 20], "event_timestamp": [at(12)] * 4})
    rows = project.history("kind", spine).read_all().to_pylist()
    assert [one["messages"] and one["messages"][0]["content"] for one in rows] == ["heavy", None, None, "light"]
    assert "viewer_kind" in rows[1]["error"]
    assert "hour" in rows[2]["error"]
    assert rows[0]["features"] == {"watched": 9, "viewer_kind": "heavy"}
    assert rows[0]["timestamps"]["viewer_kind"] == at(9)


def test_without_a_part_is_computed_without_it(project: Project) -> None:
    spine = pa.table({"user_id": ["a"], "hour": [5], "event_timestamp": [at(12)]})
    rows = project.history("kind", spine, without=["watched"]).read_all().to_pylist()
    assert [one["messages"][0]["content"] for one in rows] == ["heavy", "unknown"]


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a", "n", "x", None]),
            st.sampled_from([1, 5, 9, 13, 14]),
            st.integers(0, 23),
            st.integers(4, 8),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["all", "kind", "aged"])
def test_history_is_what_the_builder_gives(
    project: Project, name: str, rows: list[tuple[str | None, int, int, int]]
) -> None:
    takes_hour = "hour" in project.prompts.plan(name).parameters
    spine = pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], pa.string()),
            **({"hour": pa.array([row[1] for row in rows], pa.int64())} if takes_hour else {}),
            "event_timestamp": [at(row[2], day=row[3]) for row in rows],
        }
    )
    found = project.history(name, spine).read_all().to_pylist()
    builder = project.builder()
    for row, (user, hour, clock, day) in zip(found, rows, strict=True):
        options: dict[str, Any] = {"hour": hour} if takes_hour else {}
        try:
            ctx = builder.build_context(name, user_id=user, as_of=at(clock, day=day), **options)
        except RenderError as error:
            failure = str(error)
        else:
            failure = None
        assert row["error"] == failure
        if failure is not None:
            continue
        assert row["messages"] == ctx.messages
        assert row["prompt_id"] == ctx.prompt_id
        assert row["statuses"] == {key: one.status for key, one in ctx.features.items()}
        assert row["features"] == {key: one.value for key, one in ctx.features.items()}
        assert row["timestamps"] == {key: one.event_timestamp for key, one in ctx.features.items()}


def test_the_version_has_the_code(tmp_path: Path) -> None:
    def versions(name: str, registry: str) -> list[str]:
        loaded = next(_project(tmp_path / name, registry))
        return [loaded.prompts.plan(one).version for one in ("kind", "plain")]

    first = versions("a", REGISTRY)
    assert versions("b", REGISTRY.replace("if hour == 13:", "# why\n    if (hour == 13):")) == first
    changed = versions("c", REGISTRY.replace("watched > hour", "watched >= hour"))
    assert changed[0] != first[0]
    assert changed[1] == first[1]


def test_prompts_that_cannot_be(tmp_path: Path) -> None:
    prompts = {
        "dtype": "---\ninputs: {hour: str}\n---\n{{ viewer_kind }} {{ hour }}\n",
        "default": "---\nfeatures:\n  viewer_kind: {default: [1]}\n---\n{{ viewer_kind }}\n",
        "typo": "{{ viewer_kid }}\n",
    }
    loaded = next(_project(tmp_path, prompts=prompts))
    for name, match in (("dtype", "takes it as int"), ("default", "default"), ("typo", "did you mean 'viewer_kind'")):
        with pytest.raises(PromptError, match=match):
            loaded.prompts.plan(name)
    assert sum(one.severity == "error" for one in loaded.check()) == len(prompts)


def test_a_vectorized_feature_that_is_wrong(tmp_path: Path) -> None:
    for number, (body, match) in enumerate(
        (
            ("return watched.slice(1)", "values for"),
            ("return [1]", "not an Arrow array"),
            ("return pc.cast(watched, pa.string())", "array of string"),
            ("return pc.divide(watched, 0)", "ArrowInvalid"),
        )
    ):
        registry = REGISTRY.replace("return pc.multiply(watched, 2)", body)
        loaded = next(_project(tmp_path / str(number), registry))
        with pytest.raises(OnDemandError, match=match):
            loaded.get_online_features(["doubled"], [{"user_id": "a"}])


def test_plans_without_one_have_none(project: Project) -> None:
    plan = project.prompts.plan("plain").features
    assert (plan.computed, plan.inputs) == ((), {})
    assert timedelta(days=1) in [ref.limit for ref in project.prompts.plan("all").features.refs]
