"""`builder.tools`: what a model may ask for, and never about whom."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from llmfeatures import ContextBuilder, Project
from llmfeatures.errors import EntityMismatchError, RequestError, UnknownNameError
from llmfeatures.finders import StoreFinder
from llmfeatures.prompts.escape import control_spans
from llmfeatures.prompts.file import Input
from llmfeatures.tools import Tools
from llmfeatures.toolset import Given
from llmfeatures.types import json_value, parse_dtype
from tests.mcp.world import make_world, odd_world
from tests.projects import make_project

NAMES = ("get_features", "search_sessions", "recent_latest", "search_titles")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    found = Project.load(make_world(tmp_path_factory.mktemp("tools")))
    yield found
    found.close()


@pytest.fixture(scope="module")
def builder(project: Project) -> ContextBuilder:
    return project.builder()


@pytest.fixture(scope="module")
def tools(builder: ContextBuilder) -> Tools:
    return builder.tools("chat", user_id="8a2f")


def answer(tools: Tools, name: str, arguments: Any = "{}") -> dict[str, Any]:
    """What a call gives; an answer that is no error fits the tool's own schema."""
    found = json.loads(tools.call(name, arguments))
    if "error" not in found:
        schema = next(one.output for one in tools.tools if one.name == name)
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(found)
    return found


def refused(tools: Tools, name: str, arguments: Any) -> tuple[str, str]:
    """Code and message of a refusal."""
    error = answer(tools, name, arguments)["error"]
    return error["code"], error["message"]


def searches(project: Project) -> list[Any]:
    """The queries that the functions of the retrievers were asked."""
    function: Any = project.registry.retriever("viewing").function
    return function.__globals__["SEARCHES"]


# -- schemas


def test_one_tool_for_features_and_one_for_each_of_the_documents(tools: Tools) -> None:
    assert tools.names == NAMES


def test_schemas_are_within_what_strict_mode_takes(tools: Tools) -> None:
    allowed = {
        "type", "properties", "required", "additionalProperties", "items", "enum", "description", "minimum", "maximum",
        "pattern", "format", "anyOf",
    }  # fmt: skip

    def check(schema: Mapping[str, Any]) -> None:
        assert schema.keys() <= allowed
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
        for one in (*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])):
            check(one)

    for tool in tools.chat:
        function = tool["function"]
        assert function.get("strict") is True
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", function["name"])
        assert len(function.get("description", "")) <= 1024
        parameters: Any = function["parameters"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        Draft202012Validator.check_schema(parameters)
        check(parameters)
    for tool in tools.tools:
        Draft202012Validator.check_schema(tool.output)


def test_an_int_has_no_bounds_in_a_list_either() -> None:
    what = Given(keys={}, open_inputs={"years": Input(name="years", dtype=parse_dtype("list[int]"))})
    assert what.parameters([], ["years"])[0].schema == {"type": "array", "items": {"type": "integer"}}


@pytest.mark.heavy
def test_the_forms_are_what_the_providers_clients_take(tools: Tools) -> None:
    from anthropic.types import ToolParam
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.responses import FunctionToolParam

    TypeAdapter(list[ChatCompletionFunctionToolParam]).validate_python(tools.chat, strict=True)
    TypeAdapter(list[ToolParam]).validate_python(tools.anthropic)
    assert [one["name"] for one in tools.responses] == [one["function"]["name"] for one in tools.chat]
    required = FunctionToolParam.__required_keys__
    assert all(required <= one.keys() for one in tools.responses)


def test_each_form_is_fresh(tools: Tools) -> None:
    tools.chat[0]["function"]["name"] = "other"
    tools.chat[0]["function"]["parameters"]["properties"].clear()  # pyright: ignore
    tools.chat.clear()
    assert tools.chat[0]["function"]["name"] == "get_features"
    assert "names" in tools.chat[0]["function"]["parameters"]["properties"]  # pyright: ignore


def test_no_join_key_is_in_a_schema_and_unbound_inputs_are(builder: ContextBuilder, tools: Tools) -> None:
    text = json.dumps([*tools.chat, *tools.responses, *tools.anthropic])
    assert "user_id" not in text
    assert "8a2f" not in text
    schemas = {one["name"]: one["input_schema"]["properties"] for one in tools.anthropic}
    assert list(schemas["get_features"]) == ["names", "factor"]
    assert list(schemas["search_sessions"]) == ["query", "top_k", "kind"]
    assert schemas["search_sessions"]["kind"]["enum"] == ["film", "series", None]
    assert list(schemas["recent_latest"]) == ["top_k"]
    bound = builder.tools("chat", user_id="8a2f", factor=3, kind="series")
    schemas = {one["name"]: one["input_schema"]["properties"] for one in bound.anthropic}
    assert list(schemas["get_features"]) == ["names"]
    assert list(schemas["search_sessions"]) == ["query", "top_k"]


def test_what_a_caller_does_to_a_schema_is_its_own_affair(tools: Tools) -> None:
    def emptied(value: Any) -> None:
        for one in list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
            emptied(one)
        if isinstance(value, (dict, list)):
            value.clear()

    before = json.dumps([tools.chat, tools.responses, tools.anthropic])
    for form in (tools.chat, tools.responses, tools.anthropic):
        emptied(form)
    assert json.dumps([tools.chat, tools.responses, tools.anthropic]) == before


def test_descriptions_are_the_registrys(tools: Tools) -> None:
    said = tools.anthropic[0]["input_schema"]["properties"]["names"]["description"]
    assert "segment (enum[casual,power]): How much they watch." in said
    assert "What they said about titles." in tools.anthropic[1].get("description", "")


# -- answers


def test_features_are_those_of_the_prompt_as_read(builder: ContextBuilder, tools: Tools) -> None:
    made = builder.build_context("chat", user_id="8a2f", question="q")
    found = answer(tools, "get_features", {"names": ["segment", "watched", "scaled"]})
    for name, one in found["features"].items():
        assert one["value"] == made.features[name].value
        assert one["status"] == made.features[name].status
        assert one["event_timestamp"] == json_value(made.features[name].event_timestamp)
    assert found["as_of"] == json_value(made.as_of)
    assert found["features"]["scaled"]["value"] == 94


def test_only_what_was_asked_for_is_read(tools: Tools) -> None:
    assert list(answer(tools, "get_features", {"names": ["watched"]})["features"]) == ["watched"]
    assert answer(tools, "get_features", {"names": ["scaled"], "factor": 3})["features"]["scaled"]["value"] == 141
    assert answer(tools, "get_features", {"names": ["scaled"], "factor": None})["features"]["scaled"]["value"] == 94


def test_documents_are_those_that_the_prompt_would_have(builder: ContextBuilder, tools: Tools) -> None:
    made = builder.build_context("chat", user_id="8a2f", question="q")
    for name, arguments in (
        ("search_sessions", {"query": "q power"}),
        ("recent_latest", {}),
        ("search_titles", {"query": "q"}),
    ):
        found = answer(tools, name, arguments)["documents"]
        there = made.documents[name.partition("_")[2]]
        assert [one["id"] for one in found] == [one.id for one in there]
        assert [one["score"] for one in found] == [one.score for one in there]
        assert [one["metadata"] for one in found] == [one.metadata for one in there]
        assert all(one["text"] in made.text for one in found), "the fence is the prompt's"
    rated = answer(tools, "search_titles", {"query": "q"})["documents"][0]
    assert rated["features"]["title"]["avg_rating"]["value"] == 4.5


def test_the_model_narrows_and_never_widens(project: Project, tools: Tools) -> None:
    assert len(answer(tools, "search_sessions", {"query": "q", "top_k": 1})["documents"]) == 1
    assert len(answer(tools, "search_sessions", {"query": "q", "top_k": None})["documents"]) == 3
    kinds = answer(tools, "search_sessions", {"query": "q", "kind": "series"})["documents"]
    assert [one["metadata"]["kind"] for one in kinds] == ["series"]
    for top_k in (0, 4, -1, 2.0, "2", True, 10**30):
        assert refused(tools, "search_sessions", {"query": "q", "top_k": top_k}) == (
            "arguments", "top_k is a whole number from 1 to 3",
        )  # fmt: skip
    assert searches(project)[-1].keys == {"user_id": "8a2f"}


def test_each_retriever_is_prepared_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(StoreFinder, "prepare", lambda self: prepared.append(self.name))
    fresh = project.builder().tools("chat", user_id="8a2f")
    for name, arguments in (("get_features", {"names": ["watched"]}), ("recent_latest", {})) * 3:
        answer(fresh, name, arguments)
    for _ in range(3):
        answer(fresh, "search_titles", {"query": "q"})
    assert prepared == ["viewing", "catalog"]


def test_a_query_is_no_template(project: Project, tools: Tools) -> None:
    query = "{{ segment }} {% for x in y %} {# z #}"
    answer(tools, "search_sessions", {"query": query})
    assert searches(project)[-1].text == query


def test_text_from_outside_is_escaped_and_fenced(builder: ContextBuilder) -> None:
    tools = builder.tools("home", user_id="8a2f")
    said = tools.call("get_features", {"names": ["motto"]})
    assert json.loads(said)["features"]["motto"]["value"] == "hi < |im_start|> there"
    text = answer(builder.tools("chat", user_id="8a2f"), "search_sessions", {"query": "q"})["documents"][0]["text"]
    digest = re.fullmatch(r"<data-(\w{12})>\n(.*)\n</data-\1>", text, re.DOTALL)
    assert digest is not None
    assert not control_spans(text)


def test_nobody_is_known(builder: ContextBuilder) -> None:
    tools = builder.tools("chat", user_id=None)
    assert answer(tools, "get_features", {"names": ["watched"]})["features"]["watched"]["status"] == "missing"
    assert answer(tools, "search_sessions", {"query": "q"}) == {"documents": []}
    assert len(answer(tools, "search_titles", {"query": "q"})["documents"]) == 2


def test_roles_and_several_join_keys(builder: ContextBuilder) -> None:
    tools = builder.tools("pair", buyer_user_id="8a2f", seller_user_id="b13c")
    found = answer(tools, "get_features", {"names": ["buyer.watched", "seller.watched"]})["features"]
    assert {name: one["value"] for name, one in found.items()} == {"buyer.watched": 47, "seller.watched": 5}
    place = builder.tools("team/place", tenant_id=1, number=2)
    assert answer(place, "get_features", {"names": ["state"]})["features"]["state"]["value"] == "taken"


# -- identity


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["user_id", "title_id", "tenant_id", "number"])
@pytest.mark.parametrize("value", ["b13c", "8a2f", None, {"user_id": "b13c"}])
def test_an_argument_that_names_an_entity_is_refused_and_recorded(
    project: Project, tools: Tools, caplog: pytest.LogCaptureFixture, name: str, key: str, value: Any
) -> None:
    before = len(searches(project))
    with caplog.at_level(logging.WARNING, "llmfeatures"):
        code, message = refused(tools, name, {"query": "q", "names": ["watched"], key: value})
    assert code == "identity"
    assert key in message
    assert len(searches(project)) == before, "nothing was read"
    assert [record.getMessage() for record in caplog.records] == [f"refused: a call of the tool {name} named {key}"]


def test_a_bound_input_is_no_argument_either(builder: ContextBuilder) -> None:
    tools = builder.tools("chat", user_id="8a2f", kind="series")
    assert refused(tools, "search_sessions", {"query": "q", "kind": "film"})[0] == "identity"


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["b13c", "8a2f", "watched", "q"])
    | st.text(max_size=8)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["user_id", "USER_ID", "userId", "users", "keys", "entity", "names", "query", "top_k", "kind", "factor", "filter",
     "as_of", "title_id", "prompt", "self", "__class__", "timeout"]
) | st.text(max_size=6)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), arguments=st.dictionaries(KEYS, JSON, max_size=4), as_text=st.booleans())
def test_whatever_a_model_says_no_answer_is_about_another_entity(
    tools: Tools, name: str, arguments: dict[str, Any], as_text: bool
) -> None:
    hostile = {**arguments, **({"query": "q"} if name.startswith("search") else {})}
    found = answer(tools, name, json.dumps(hostile) if as_text else hostile)
    if "error" in found:
        assert found["error"]["code"] in ("identity", "arguments", "unavailable")
    for one in found.get("documents", ()):
        assert one["id"].startswith("all-" if name == "search_titles" else "8a2f-")
    for feature, read in found.get("features", {}).items():
        assert read["value"] == {"segment": "power", "watched": 47, "scaled": read["value"]}[feature]


def test_an_input_that_says_who_is_nothing_that_a_model_gives(tmp_path: Path) -> None:
    project = Project.load(odd_world(tmp_path))
    builder = project.builder()
    with pytest.raises(RequestError, match=r"input 'user_id' .* like a join key, .* give it here, user_id=\.\.\."):
        builder.tools("t", title_id="t0")
    with pytest.raises(RequestError, match="input 'names' of prompt 'n' is named like another argument"):
        builder.tools("n", user_id="8a2f")
    tools = builder.tools("t", title_id="t0", user_id="8a2f")
    assert refused(tools, "get_features", {"names": ["rated_for"], "user_id": "b13c"})[0] == "identity"
    assert answer(tools, "get_features", {"names": ["rated_for"]})["features"]["rated_for"]["value"] == "8a2f"
    project.close()


# -- what is wrong


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_features", "", "get_features needs names"),
        ("get_features", "[1]", "the arguments are one JSON object"),
        ("get_features", '{"names": ["watched"]', "the arguments are no JSON"),
        ("get_features", "[" * 100_000, "the arguments are no JSON"),
        ("get_features", {"names": []}, "names is a list of one or more features"),
        ("get_features", {"names": "watched"}, "names is a list of one or more features"),
        ("get_features", {"names": ["watchd"]}, "did you mean 'watched'?"),
        ("get_features", {"names": ["scaled"], "factor": "many"}, "input 'factor'"),
        ("search_sessions", {}, "search_sessions needs query"),
        ("search_sessions", {"query": " "}, "query is a text"),
        ("search_sessions", {"query": 3}, "query is a text"),
        ("search_sessions", {"query": "q" * 5_000}, "5000 characters"),
        ("search_sessions", {"query": "q", "kind": "book"}, "input 'kind'"),
        ("search_sessions", {"query": "q", "topk": 1}, "did you mean 'top_k'?"),
        ("recent_latest", {"query": "q"}, "recent_latest takes no 'query'"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(tools: Tools, name: str, arguments: Any, said: str) -> None:
    code, message = refused(tools, name, arguments)
    assert code == "arguments"
    assert said in message


def test_mistakes_of_the_program_are_exceptions(builder: ContextBuilder, tools: Tools) -> None:
    with pytest.raises(UnknownNameError, match="unknown tool 'get_feature'; did you mean 'get_features'"):
        tools.call("get_feature", "{}")
    with pytest.raises(RequestError, match="not bytes"):
        tools.call("get_features", b"{}")  # pyright: ignore
    with pytest.raises(RequestError, match="user_id is required"):
        builder.tools("chat")
    with pytest.raises(RequestError, match="takes no 'user'"):
        builder.tools("chat", user_id="8a2f", user=1)
    with pytest.raises(RequestError, match="user_id is of type str"):
        builder.tools("chat", user_id=42)
    with pytest.raises(RequestError, match="input 'factor'"):
        builder.tools("chat", user_id="8a2f", factor="x")
    with pytest.raises(RequestError, match="no features and no documents"):
        builder.tools("plain")
    with pytest.raises(UnknownNameError, match="prompt"):
        builder.tools("chatt", user_id="8a2f")


def test_a_retriever_that_fails_is_not_available(
    builder: ContextBuilder, tools: Tools, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llmfeatures"):
        assert refused(tools, "search_sessions", {"query": "break it"})[0] == "unavailable"
    assert "ValueError" in caplog.text
    assert "8a2f" not in caplog.text, "no value is in the log"


def test_a_function_that_fails_is_not_available(tools: Tools) -> None:
    code, message = refused(tools, "get_features", {"names": ["scaled"], "factor": 13})
    assert (code, message) == ("unavailable", "feature 'scaled' could not be computed")
    assert answer(tools, "get_features", {"names": ["watched"], "factor": 13})["features"]["watched"]["value"] == 47


def test_a_store_that_is_empty_is_a_status(tmp_path: Path) -> None:
    with_nothing = Project.load(make_project(tmp_path, segments=[], counts=[]))
    found = answer(with_nothing.builder().tools("home", user_id="a"), "get_features", {"names": ["watched"]})
    assert found["features"]["watched"] == {"value": None, "status": "unavailable", "event_timestamp": None}
    with_nothing.close()


def test_a_document_of_another_entity_is_an_exception(tools: Tools, project: Project) -> None:
    function: Any = project.registry.retriever("viewing").function
    names = function.__globals__
    kept, names["_texts"] = names["_texts"], lambda *_: [{"id": "x", "text": "x", "score": 1, "user_id": "b13c"}]
    try:
        with pytest.raises(EntityMismatchError):
            tools.call("search_sessions", {"query": "q"})
    finally:
        names["_texts"] = kept


# -- asyncio


async def test_the_async_twin_gives_the_same(project: Project, tools: Tools) -> None:
    builder = project.async_builder()
    twin = builder.tools("chat", user_id="8a2f")
    assert twin.chat == tools.chat
    calls = [
        ("get_features", {"names": ["segment", "scaled"]}),
        ("search_sessions", {"query": "q"}),
        ("search_sessions", {"query": "break it"}),
        ("recent_latest", {"user_id": "b13c"}),
        ("recent_latest", "{"),
    ]
    found = await asyncio.gather(*(twin.call(name, arguments) for name, arguments in calls))
    assert found == [tools.call(name, arguments) for name, arguments in calls]
    with pytest.raises(UnknownNameError):
        await twin.call("nope")
    await builder.aclose()


TYPED = """
from __future__ import annotations

from anthropic import Anthropic
from anthropic.types import MessageParam
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseInputParam

from llmfeatures import AsyncContextBuilder, ContextBuilder


def chat(client: OpenAI, builder: ContextBuilder, messages: list[ChatCompletionMessageParam]) -> str:
    tools = builder.tools("recommender", user_id="8a2f")
    client.chat.completions.create(model="m", messages=messages, tools=tools.chat, stream=True)
    client.chat.completions.parse(model="m", messages=messages, tools=tools.chat)
    return tools.call("get_features", '{"names": ["last_genre"]}')


def responses(client: OpenAI, builder: ContextBuilder, items: ResponseInputParam) -> str:
    tools = builder.tools("recommender", user_id="8a2f")
    client.responses.create(model="m", input=items, tools=tools.responses)
    return tools.call("get_features", {"names": ["last_genre"]})


def messages(client: Anthropic, builder: ContextBuilder, turns: list[MessageParam]) -> None:
    tools = builder.tools("recommender", user_id="8a2f")
    client.messages.create(model="m", max_tokens=10, messages=turns, tools=tools.anthropic)


async def twin(client: AsyncOpenAI, builder: AsyncContextBuilder, messages: list[ChatCompletionMessageParam]) -> str:
    tools = builder.tools("recommender", user_id="8a2f")
    await client.chat.completions.create(model="m", messages=messages, tools=tools.chat)
    await client.responses.create(model="m", input="Hi?", tools=tools.responses)
    return await tools.call("get_features")
"""


@pytest.mark.heavy
@pytest.mark.parametrize("checker", [["pyright", "--pythonpath", sys.executable], ["mypy", "--strict"]])
def test_tools_type_check_with_the_current_clients(tmp_path: Path, checker: list[str]) -> None:
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11"}')
    (tmp_path / "app.py").write_text(TYPED)
    run = [sys.executable, "-m", *checker]
    good = subprocess.run([*run, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout
    (tmp_path / "app.py").write_text(TYPED.replace("tools=tools.chat)", "tools=tools.responses)"))
    bad = subprocess.run([*run, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert bad.returncode == 1, "it would see a wrong form"
