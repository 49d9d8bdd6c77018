"""What a session of the Model Context Protocol is offered and answered, by the official client in this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, PromptReference, TextContent

from llmfeatures import ContextBuilder
from llmfeatures.errors import EntityMismatchError
from llmfeatures.mcp.server import CONTEXT_META, ROLE_META
from tests.mcp.conftest import Connect, Log, api_key

QUESTION = {"question": "What now?"}


def text_of(content: Any) -> str:
    assert isinstance(content, TextContent)
    return content.text


# -- prompts


async def test_every_prompt_has_its_typed_arguments(connect: Connect) -> None:
    async with connect() as client:
        prompts = {one.name: one for one in (await client.list_prompts()).prompts}
    assert list(prompts) == ["chat", "home", "pair", "plain", "rated", "team/place"]
    assert prompts["chat"].description == "Answers a viewer's question"
    arguments = {one.name: one for one in prompts["chat"].arguments or ()}
    assert {name: one.required for name, one in arguments.items()} == {
        "user_id": True, "question": True, "factor": False, "kind": False,
    }  # fmt: skip
    assert arguments["question"].description == "Type: str. At most 40 characters."
    assert arguments["kind"].description == "Type: enum[film,series]. May be left out. One of: film, series."


async def test_bound_join_keys_vanish_from_the_arguments(connect: Connect) -> None:
    async with connect("user_id=8a2f", "tenant_id=1") as client:
        prompts = {one.name: [arg.name for arg in one.arguments or ()] for one in (await client.list_prompts()).prompts}
    assert prompts["chat"] == ["question", "factor", "kind"]
    assert prompts["home"] == prompts["pair"] == []
    assert prompts["team/place"] == ["number"]
    assert prompts["rated"] == ["title_id"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_messages_are_those_of_build_context(connect: Connect, builder: ContextBuilder, mode: str) -> None:
    async with connect("user_id=8a2f", mode=mode) as client:
        found = await client.get_prompt("chat", {**QUESTION, "factor": "3", "kind": "series"})
    made = builder.build_context("chat", user_id="8a2f", question="What now?", factor=3, kind="series")
    roles = [(one.content.meta or {}).get(ROLE_META, one.role) for one in found.messages]  # pyright: ignore
    messages = [
        {"role": role, "content": text_of(one.content)} for role, one in zip(roles, found.messages, strict=True)
    ]
    assert messages == made.messages
    assert [one.role for one in found.messages] == ["user", "user", "assistant"]
    assert found.description == "Answers a viewer's question"
    assert found.meta is not None
    about = found.meta[CONTEXT_META]
    assert (about["prompt_id"], about["version"]) == (made.prompt_id, made.version)
    assert about["degraded"] is False


async def test_join_keys_that_are_not_bound_are_a_persons_to_give(connect: Connect, builder: ContextBuilder) -> None:
    async with connect() as client:
        found = await client.get_prompt("home", {"user_id": "b13c"})
        place = await client.get_prompt("team/place", {"tenant_id": "1", "number": "2"})
    assert text_of(found.messages[0].content) == builder.build_context("home", user_id="b13c").text
    assert text_of(place.messages[0].content) == "taken 2"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("hme", {}, "unknown prompt 'hme'; did you mean 'home'?"),
        ("chat", {}, "prompt 'chat' needs the argument question. Type: str. At most 40 characters."),
        ("chat", {**QUESTION, "factor": "2.5"}, "factor is of type int: not an int"),
        ("chat", {**QUESTION, "kind": "book"}, "kind is of type enum[film,series]"),
        ("chat", {**QUESTION, "kinds": "film"}, "did you mean 'kind'?"),
        ("chat", {"question": "q" * 41}, "has 41 characters; max_chars is 40"),
        ("rated", {}, "prompt 'rated' needs the argument title_id. Whose: the title_id. Type: str."),
    ],
)
async def test_what_is_wrong_is_an_error_that_lists_the_choices(
    connect: Connect, name: str, arguments: dict[str, str], said: str
) -> None:
    async with connect("user_id=8a2f") as client:
        with pytest.raises(MCPError) as raised:
            await client.get_prompt(name, arguments)
    assert raised.value.code == INVALID_PARAMS
    assert said in raised.value.message


@pytest.mark.parametrize("arguments", [{"user_id": "b13c"}, {"user_id": "8a2f"}, {"user_id": ""}])
async def test_an_argument_that_names_who_is_bound_is_refused(
    connect: Connect, log: Log, arguments: dict[str, str]
) -> None:
    async with connect("user_id=8a2f") as client:
        with pytest.raises(MCPError, match="user_id: whose this session is was decided before") as raised:
            await client.get_prompt("home", arguments)
        with pytest.raises(MCPError, match="buyer_user_id"):
            await client.get_prompt("pair", {"buyer_user_id": "b13c"})
    assert raised.value.data == {"code": "identity"}
    assert [(line["of"], line["named"]) for line in log.lines("identity")] == [
        ("home", ["user_id"]), ("pair", ["buyer_user_id"]),
    ]  # fmt: skip
    assert "b13c" not in log.written.getvalue()


async def test_a_key_that_nobody_has_bound_is_just_unknown(connect: Connect, log: Log) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="prompt 'plain' takes no 'user_id'"):
            await client.get_prompt("plain", {"user_id": "8a2f"})
    async with connect(key=api_key("prompts:*", user_id="8a2f")) as client:
        with pytest.raises(MCPError, match="title_id: whose this session is"):
            await client.get_prompt("plain", {"title_id": "t1"})
    assert [line["named"] for line in log.lines("identity")] == [["title_id"]]


async def test_words_of_an_argument_are_completed(connect: Connect) -> None:
    async with connect() as client:
        ref = PromptReference(name="chat")
        found = await client.complete(ref, {"name": "kind", "value": "se"})
        none = await client.complete(ref, {"name": "user_id", "value": ""})
    assert found.completion.values == ["series"]
    assert none.completion.values == [], "never the keys of somebody"


# -- tools


async def test_tools_are_of_entities_that_are_bound(connect: Connect) -> None:
    async def names(*bind: str, any_: tuple[str, ...] = ()) -> list[str]:
        async with connect(*bind, any_=any_) as client:
            return [one.name for one in (await client.list_tools()).tools]

    assert await names() == ["search_catalog"]
    assert await names("user_id=8a2f") == ["get_user_features", "search_viewing", "search_catalog"]
    assert await names("tenant_id=1") == ["search_catalog"]
    assert await names("tenant_id=1", "number=2") == ["get_seat_features", "search_catalog"]
    assert await names("user_id=8a2f", any_=("title_id",)) == [
        "get_title_features", "get_user_features", "search_viewing", "search_catalog",
    ]  # fmt: skip


async def test_schemas_are_valid_and_without_bound_keys(connect: Connect) -> None:
    async with connect("user_id=8a2f", any_=("title_id",)) as client:
        tools = {one.name: one for one in (await client.list_tools()).tools}
    for one in tools.values():
        Draft202012Validator.check_schema(one.input_schema)
        assert one.output_schema is not None
        Draft202012Validator.check_schema(one.output_schema)
        assert "user_id" not in json.dumps(one.input_schema)
        assert one.annotations is not None
        assert one.annotations.read_only_hint
    assert tools["get_title_features"].input_schema["required"] == ["names", "title_id"]
    assert tools["get_user_features"].input_schema["required"] == ["names"]
    assert "(A film or a series)" in (tools["get_title_features"].description or "")


async def test_answers_fit_their_schemas(connect: Connect) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_user_features", {"names": ["segment", "watched", "motto", "extra", "born", "balance"]}),
        ("get_user_features", {"names": ["scaled"], "factor": 2}),
        ("get_title_features", {"names": ["avg_rating"], "title_id": "t1"}),
        ("search_viewing", {"query": "x", "top_k": 2}),
        ("search_catalog", {"query": "x"}),
    ]
    async with connect("user_id=8a2f", any_=("title_id",)) as client:
        schemas = {one.name: one.output_schema for one in (await client.list_tools()).tools}
        for name, arguments in calls:
            found = await client.call_tool(name, arguments)
            assert not found.is_error
            schema = schemas[name]
            assert schema is not None
            Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
                found.structured_content
            )
            assert json.loads(text_of(found.content[0])) == found.structured_content
        rated = await client.call_tool(*calls[2])
        assert rated.structured_content["features"]["avg_rating"]["value"] == 3.25


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("get_user_features", {"names": ["watched"], "user_id": "b13c"}, "identity"),
        ("get_user_features", {"names": ["watched"], "user_id": "8a2f"}, "identity"),
        ("search_viewing", {"query": "x", "tenant_id": 1}, "identity"),
        ("search_catalog", {"query": "x", "user_id": "b13c"}, "identity"),
        ("get_user_features", {"names": []}, "arguments"),
        ("get_user_features", {"names": ["scaled"]}, "arguments"),
        ("get_title_features", {"names": ["avg_rating"]}, "arguments"),
        ("search_viewing", {"query": "break it"}, "unavailable"),
    ],
)
async def test_what_a_model_can_mend_is_an_answer(
    connect: Connect, log: Log, name: str, arguments: dict[str, Any], code: str
) -> None:
    async with connect("user_id=8a2f", any_=("title_id",)) as client:
        found = await client.call_tool(name, arguments)
    assert found.is_error
    assert json.loads(text_of(found.content[0]))["error"]["code"] == code
    assert [line["of"] for line in log.lines("identity")] == ([name] if code == "identity" else [])


async def test_an_unknown_tool_is_an_error_of_the_protocol(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="unknown tool 'get_user_features'") as raised:
            await client.call_tool("get_user_features", {"names": ["watched"]})
    assert raised.value.code == INVALID_PARAMS
    assert raised.value.data["known"] == ["search_catalog"]


HOSTILE = st.dictionaries(
    st.sampled_from(["user_id", "userId", "names", "query", "top_k", "title_id", "keys", "as_of", "factor", "_meta"]),
    st.sampled_from(["b13c", "8a2f", ["watched", "motto"], ["segment"], 1, 9, None, {"user_id": "b13c"}, "t1"]),
    max_size=4,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["get_user_features", "search_viewing"]), arguments=HOSTILE)
def test_no_call_is_answered_about_another_entity(connect: Connect, name: str, arguments: dict[str, Any]) -> None:
    async def call() -> str:
        async with connect("user_id=8a2f", any_=("title_id",)) as client:
            try:
                found = await client.call_tool(name, arguments)
            except MCPError as error:
                return error.message
            return "" if found.is_error else text_of(found.content[0])

    found = asyncio.run(call())
    assert not any(mark in found for mark in ("b13c-", "of b13c", "only b13c's", "casual"))


# -- resources


async def test_the_registry_and_each_prompt_file_is_a_resource(connect: Connect, world: Any) -> None:
    async with connect() as client:
        resources = {one.uri: one for one in (await client.list_resources()).resources}
        registry = (await client.read_resource("llmfeatures://registry")).contents[0]
        file = (await client.read_resource("llmfeatures://prompts/team/place")).contents[0]
        with pytest.raises(MCPError, match="unknown resource"):
            await client.read_resource("llmfeatures://prompts/../features.py")
    assert list(resources) == [
        "llmfeatures://registry",
        *(f"llmfeatures://prompts/{name}" for name in ("chat", "home", "pair", "plain", "rated", "team/place")),
    ]
    listing = json.loads(registry.text)  # pyright: ignore[reportAttributeAccessIssue]
    assert {one["name"] for one in listing["views"]} == {"profile", "ratings", "seats"}
    assert file.text == (world / "prompts" / "team" / "place.prompt.j2").read_text()  # pyright: ignore


# -- API keys


async def test_scopes_say_what_is_offered(connect: Connect) -> None:
    async with connect("user_id=8a2f", key=api_key("prompts:home")) as client:
        assert [one.name for one in (await client.list_prompts()).prompts] == ["home"]
        assert (await client.list_tools()).tools == []
        assert (await client.list_resources()).resources == []
        for call, scope in (
            (client.get_prompt("chat", QUESTION), "prompts:chat"),
            (client.call_tool("search_catalog", {"query": "x"}), "read"),
            (client.read_resource("llmfeatures://registry"), "read"),
        ):
            with pytest.raises(MCPError, match=f"lacks the scope {scope}"):
                await call
    async with connect("user_id=8a2f", key=api_key("read", "prompts:home")) as client:
        listed = [one.uri for one in (await client.list_resources()).resources]
        assert listed == ["llmfeatures://registry", "llmfeatures://prompts/home"]
        with pytest.raises(MCPError, match="unknown resource"):
            await client.read_resource("llmfeatures://prompts/chat")
        assert len((await client.list_tools()).tools) == 3


async def test_a_keys_claim_binds(connect: Connect, builder: ContextBuilder) -> None:
    key = api_key("read", "prompts:*", user_id="b13c")
    async with connect(key=key) as client:
        prompts = {one.name: [arg.name for arg in one.arguments or ()] for one in (await client.list_prompts()).prompts}
        assert prompts == {"chat": ["question", "factor", "kind"], "home": [], "pair": [], "plain": []}
        found = await client.get_prompt("home")
        assert text_of(found.messages[0].content) == builder.build_context("home", user_id="b13c").text
        features = await client.call_tool("get_user_features", {"names": ["watched"]})
        assert features.structured_content["features"]["watched"]["value"] == 5
        with pytest.raises(MCPError, match="bound to another entity"):
            await client.get_prompt("rated", {"title_id": "t1"})


async def test_a_claim_of_any_value_lets_a_call_name_it(connect: Connect) -> None:
    async with connect(key=api_key("read", "prompts:*", user_id="8a2f", title_id=None)) as client:
        found = await client.get_prompt("rated", {"title_id": "t0"})
        assert text_of(found.messages[0].content) == "4.5"
        rated = await client.call_tool("get_title_features", {"names": ["avg_rating"], "title_id": "t0"})
        assert rated.structured_content["features"]["avg_rating"]["value"] == 4.5


# -- failures


async def test_what_nobody_foresaw_is_not_told(connect: Connect, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret value")

    async with connect("user_id=8a2f") as client:
        monkeypatch.setattr("llmfeatures.mcp.offer.Offer.prompts", broken)
        with pytest.raises(MCPError) as raised:
            await client.list_prompts()
    assert raised.value.code == INTERNAL_ERROR
    (line,) = log.lines("failure")
    assert (line["error"], line["request_id"]) == ("ZeroDivisionError", raised.value.data["request_id"])
    assert "secret" not in raised.value.message + log.written.getvalue()


async def test_a_store_that_answers_about_another_entity_is_in_the_log(
    connect: Connect, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mixed_up(*_: Any) -> Any:
        raise EntityMismatchError("it was asked for 8a2f")

    async with connect("user_id=8a2f") as client:
        monkeypatch.setattr("llmfeatures.builder.AsyncContextBuilder.gathered", mixed_up)
        with pytest.raises(MCPError) as raised:
            await client.call_tool("get_user_features", {"names": ["watched"]})
    assert raised.value.data["code"] == "entity_mismatch"
    assert [(line["route"], line["error"]) for line in log.lines("failure")] == [("tools/call", "EntityMismatchError")]
    assert "8a2f" not in log.written.getvalue()


async def test_many_calls_at_once_are_answered_each_as_asked(connect: Connect) -> None:
    async with connect("user_id=8a2f") as client:
        found = await asyncio.gather(*(client.call_tool("search_viewing", {"query": f"q{n}"}) for n in range(20)))
    for number, one in enumerate(found):
        assert f"text 1 of 8a2f: q{number}\n" in one.structured_content["documents"][1]["text"]
