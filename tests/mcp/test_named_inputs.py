"""Inputs that are named like a join key: they say who, too, so a session has them bound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmfeatures import Project
from llmfeatures.errors import RequestError
from llmfeatures.mcp.binding import binding_of
from llmfeatures.mcp.offer import Offer
from llmfeatures.problems import ProblemError
from llmfeatures.service.keys import ApiKey
from llmfeatures.toolset import ToolRefusal
from tests.mcp.conftest import api_key
from tests.mcp.world import odd_world


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    found = Project.load(odd_world(tmp_path_factory.mktemp("odd")))
    yield found
    found.close()


def offer(project: Project, *bind: str, key: ApiKey | None = None, any_: tuple[str, ...] = ()) -> Offer:
    binding = binding_of(project.registry, bind, any_).of_key(key, project.registry)
    return Offer("odd", project.async_builder(), binding, key)


def arguments(found: Offer) -> dict[str, list[str]]:
    return {one.name: one.arguments for one in found.tools()}


def test_no_tool_asks_for_one(odd: Project) -> None:
    bound = arguments(offer(odd, "user_id=8a2f", any_=("title_id",)))
    assert bound["get_title_features"] == ["names", "title_id"]
    assert bound["get_user_features"] == ["names", "factor"], "each argument once"
    assert arguments(offer(odd, any_=("title_id", "user_id")))["get_title_features"] == ["names", "title_id", "user_id"]


async def test_a_prompt_has_it_from_the_session(odd: Project) -> None:
    bound = offer(odd, "user_id=8a2f")
    assert [one.name for one in bound.arguments(bound.prompts()["t"])] == ["title_id"]
    assert (await bound.context("t", {"title_id": "t0"})).text == "8a2f"
    for other in ("b13c", "8a2f"):
        with pytest.raises(ToolRefusal):
            await bound.context("t", {"title_id": "t0", "user_id": other})


async def test_a_key_of_another_entity_does_not_get_the_prompt(odd: Project) -> None:
    keyed = offer(odd, key=api_key("prompts:*", title_id="t0"))
    assert "t" not in keyed.prompts()
    with pytest.raises(ProblemError, match="bound to another entity"):
        await keyed.context("t", {"user_id": "b13c"})
    both = offer(odd, key=api_key("prompts:*", title_id="t0", user_id=None))
    assert (await both.context("t", {"user_id": "b13c"})).text == "b13c"
    with pytest.raises(RequestError, match="needs the argument user_id"):
        await both.context("t", {})
