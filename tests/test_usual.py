"""The short way of the usual call gives what the ordinary way gives, whatever the call and whatever the store holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures import ContextBuilder, Entity, FeatureView, PromptContext, Registry
from llmfeatures.builder import Prompts
from llmfeatures.errors import LLMFeaturesError, StoreUnavailableError
from llmfeatures.ports import Meta, Read
from llmfeatures.usual import Usual
from tests.projects import at
from tests.test_plan import STAMPS, TEXTS

PROMPT = """---
features:
  count: {default: 0, max_age: 1h}
  share: {on_missing: none}
  word: {default: unknown}
  flag: {default: false}
inputs:
  question: {type: str, max_chars: 5, default: why}
---
{{ user_id }}: {{ count }}{% if share is not none %} {{ share }}{% endif %} {{ word }} {{ flag }} {{ question }}
"""
USER = Entity("user", "user_id")
REGISTRY = Registry(
    [
        FeatureView("a", USER, "a.parquet", {"word": "str", "count": "int"}, ttl="2h"),
        FeatureView("b", USER, "b.parquet", {"share": "float", "flag": "bool"}),
    ]
)


class Holding:
    """An online store that holds one answer for everybody, or one for each read of a call, or that is down."""

    def __init__(self, answer: list[str | None] | None, *others: list[str | None]) -> None:
        self.answer, self.others = answer, others
        self.reads = 0

    def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """The answer."""
        if self.answer is None:
            raise StoreUnavailableError("it is down")
        self.reads += 1
        return [list(one) for one, _ in zip(cycle([self.answer, *self.others]), reads, strict=False)]

    def meta(self, *, timeout: float | None = None) -> Meta | None:
        """A record that knows no view."""
        return Meta(format=1, lifetime="x", views={})


class Ordinary(Prompts):
    """Prompts whose calls all go the ordinary way."""

    def compiled(self, name: str) -> tuple[Any, Usual | None]:
        """As `Prompts.compiled`."""
        return super().compiled(name)[0], None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prompt."""
    made = tmp_path_factory.mktemp("prompts")
    (made / "all.prompt.j2").write_text(PROMPT)
    return made


def outcome(prompts: Prompts, store: Holding, *calls: dict[str, Any]) -> Any:
    """What a call gives, or several together: the contexts without their own ids, or the error."""
    builder = ContextBuilder(prompts, store, lambda: pytest.fail("no history is read"), lambda: at(22))  # type: ignore[arg-type]
    try:
        made = [builder.build_context("all", **calls[0])] if len(calls) == 1 else builder.build_contexts("all", calls)
    except LLMFeaturesError as error:
        return type(error), str(error)
    for one in made:
        assert PromptContext.model_validate_json(one.model_dump_json()) == one
    found = [one.model_copy(update={"request_id": ""}) for one in made]
    return found[0] if len(calls) == 1 else found


CALLS = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["8a2f", "é", "a b", "", None, 7])},
    optional={"question": st.sampled_from(["how", "much too long", 3, None]), "nothing": st.just(1)},
) | st.just({})
NEAR = st.integers(-10_000, 10_000).map(
    lambda seconds: (
        f"{(at(22) + timedelta(seconds=seconds)).strftime('%Y-%m-%dT%H:%M:%S.%f')}Z|-|2026-05-07T23:00:00.000000Z"
    )
)
GOOD = st.tuples(
    st.just("47"), st.just("0.5"), st.sampled_from(['"drama"', '"<|im_start|>"', '"a\\nb"']), st.just("true")
)
ANSWERS = st.one_of(
    st.tuples(GOOD, st.tuples(NEAR, NEAR)).map(lambda both: [*both[0], *both[1]]),
    st.tuples(st.lists(st.none() | TEXTS, min_size=4, max_size=4), st.tuples(STAMPS, STAMPS)).map(
        lambda both: [*both[0], *both[1]]
    ),
    st.none(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=CALLS, answer=ANSWERS)
def test_both_ways_give_the_same(folder: Path, call: dict[str, Any], answer: list[str | None] | None) -> None:
    short = outcome(Prompts(REGISTRY, folder), Holding(answer), call)
    assert short == outcome(Ordinary(REGISTRY, folder), Holding(answer), call)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(CALLS | st.just({"user_id": "8a2f"}), min_size=2, max_size=4) | st.just([]),
    answers=st.lists(ANSWERS.filter(bool), min_size=1, max_size=3) | st.just([None]),
)
def test_both_ways_give_the_same_of_many(folder: Path, calls: list[dict[str, Any]], answers: list[Any]) -> None:
    short = outcome(Prompts(REGISTRY, folder), Holding(*answers), *calls)
    assert short == outcome(Ordinary(REGISTRY, folder), Holding(*answers), *calls)


def test_the_usual_call_goes_the_short_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(REGISTRY, folder)
    plan, usual = prompts.compiled("all")
    assert usual is not None
    assert plan.features.types == [int, float, str, bool]
    stamp = "2026-05-07T21:30:00.000000Z|-|2026-05-07T23:00:00.000000Z"
    store = Holding(["47", "0.5", '"drama"', "true", stamp, stamp])
    monkeypatch.setattr(type(plan), "bind", lambda *_: pytest.fail("it went the ordinary way"))
    made = outcome(prompts, store, {"user_id": "8a2f"})
    assert made.text == "8a2f: 47 0.5 drama true why"
    assert made.features["count"].event_timestamp == datetime(2026, 5, 7, 21, 30, tzinfo=UTC)
    assert store.reads == 1
    one, other = outcome(prompts, store, {"user_id": "8a2f"}, {"user_id": "b13c", "question": "how"})
    assert (one.text, other.text) == (made.text, "b13c: 47 0.5 drama true how")
    assert store.reads == 2
