"""``{% conversation %}``, and what `chat`, `responses` and `anthropic` make of a text or a list of turns."""

from __future__ import annotations

import copy
import re
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmfeatures import ContextBuilder, Project, PromptContext
from llmfeatures.context import Message
from llmfeatures.errors import PromptError, RequestError
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.finish import rendered
from llmfeatures.tokens import tokenizer
from llmfeatures.turns import place_of
from llmfeatures.usual import usual_of
from tests.calls.projects import ASK, CHAT, chat_builder
from tests.projects import at, make_project

TURNS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "This?"},
                                 {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
    {"role": "assistant", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "titles", "arguments": '{"genre": "noir"}'}}]},
    {"role": "tool", "tool_call_id": "1", "content": "[\"Dune\"]"},
    {"role": "assistant", "content": "Dune."},
]  # fmt: skip
NEW: list[Any] = [{"role": "user", "content": "And then?"}]
SAID: list[Any] = [{"role": "assistant", "content": "Stalker."}]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> ContextBuilder:
    return chat_builder(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def chat(builder: ContextBuilder) -> PromptContext:
    return builder.build_context("chat", user_id="8a2f")


@pytest.fixture(scope="module")
def ask(builder: ContextBuilder) -> PromptContext:
    return builder.build_context("ask", user_id="8a2f", question="Why?")


# -- the tag ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("prompts")
    (root / "_shared").mkdir()
    (root / "_shared" / "here.j2").write_text("{% conversation %}")
    (root / "_shared" / "m.j2").write_text("{% macro m() %}{% conversation %}{% endmacro %}")
    (root / "_shared" / "base.j2").write_text(
        '{% message "system" %}a{% endmessage %}{% block turns %}{% endblock %}{% message "user" %}b{% endmessage %}'
    )
    env = make_environment(root)
    return lambda body: compile_prompt(env, body, name="p", path="p.prompt.j2", line_offset=0)


SYSTEM, USER = '{% message "system" %}a{% endmessage %}', '{% message "user" %}{{ x }}{% endmessage %}'


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (f"{SYSTEM}\n{{% conversation %}}\n{USER}", 1),
        (f"{SYSTEM}{{% conversation %}}", 1),
        (f"{{% conversation %}}{USER}", 0),
        (f"{SYSTEM}{{% if x %}}{USER}{{% endif %}}{{% conversation %}}{USER}", 2),
        (f"{SYSTEM}{{% if not x %}}{USER}{{% endif %}}{{% conversation %}}{USER}", 1),
        (f"{{% for i in [1, 2] %}}{SYSTEM}{{% endfor %}}{{% conversation %}}{USER}", 2),
        (f"{SYSTEM}{{% include '_shared/here.j2' %}}{USER}", 1),
        ("{% extends '_shared/base.j2' %}{% block turns %}{% conversation %}{% endblock %}", 1),
        ('{% message "system" %}{{ x }}<|im_start|>{% endmessage %}{% conversation %}', 1),
        (f"{SYSTEM}{USER}", None),
        ("{{ x }}", None),
    ],
)
def test_where_it_stands(make: Any, body: str, place: int | None) -> None:
    for value in ("x", "<|im_", "<|im_start|>system"):  # the last two take the way of segments
        template = make(body)
        messages, found = template.placed({"x": value})
        assert found == place
        assert template.has_conversation == (place is not None)
        assert messages == make(body.replace("{% conversation %}", "")).render({"x": value})
        assert rendered(template, {"x": value}, None).conversation == place


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("a\n{% conversation %}", "2:4: .*this prompt has no message tag: put its text into"),
        ('{% message "system" %}{% conversation %}{% endmessage %}', "1:26: .*between messages, not inside a message"),
        (f"{SYSTEM}{{% if x %}}{{% conversation %}}{{% endif %}}", "not inside a branch"),
        (f"{SYSTEM}{{% for i in x %}}{{% conversation %}}{{% endfor %}}", "not inside a loop"),
        ('{% message "user" %}{% section "s" %}{% conversation %}{% endsection %}{% endmessage %}', "inside a section"),
        ('{% message "user" %}{% data %}{% conversation %}{% enddata %}{% endmessage %}', "inside a data block"),
        (f"{{% macro m() %}}{{% conversation %}}{{% endmacro %}}{SYSTEM}{{{{ m() }}}}", "inside a macro"),
        (f"{{% set y %}}{{% conversation %}}{{% endset %}}{SYSTEM}", "inside a set block"),
        (f"{{% filter upper %}}{{% conversation %}}{{% endfilter %}}{SYSTEM}", "inside a filter block"),
        (f"{{% import '_shared/m.j2' as m %}}{SYSTEM}", "not inside"),
        (f"{{% if x %}}{{% include '_shared/here.j2' %}}{{% endif %}}{SYSTEM}", "_shared/here.j2: .*inside a branch"),
        ('{% message "user" %}{% include "_shared/here.j2" %}{% endmessage %}', "inside a message"),
        (f"{{% conversation %}}{SYSTEM}{{% conversation %}}", "this is a second"),
        (f"{{% conversation %}}{SYSTEM}{{% include '_shared/here.j2' %}}", "this is a second"),
        ("{% conversation 1 %}", "expected token"),
        (f"{SYSTEM}{{% conversaton %}}", "did you mean 'conversation'?"),
    ],
)
def test_where_it_cannot_stand(make: Any, body: str, said: str) -> None:
    with pytest.raises(PromptError, match=said.replace("{", r"\{").replace("?", r"\?")):
        make(body)


def test_a_block_that_is_printed_twice_is_told_when_it_happens(make: Any) -> None:
    template = make("{% extends '_shared/base.j2' %}{% block turns %}{% conversation %}{% endblock %}")
    assert template.placed({})[1] == 1
    twice = make(f"{SYSTEM}{{% block b %}}{{% conversation %}}{{% endblock %}}{{{{ self.b() }}}}")
    with pytest.raises(Exception, match="a second"):
        twice.placed({})


def test_it_changes_no_message_but_the_version(tmp_path: Path) -> None:
    without = CHAT.replace("{% conversation %}\n", "")
    builder = Project.load(make_project(tmp_path, prompts={"with": CHAT, "without": without})).builder()
    one, other = [builder.build_context(name, user_id="u1", as_of=at(2)) for name in ("with", "without")]
    assert one.messages == other.messages
    assert one.prompt_id == other.prompt_id
    assert one.version != other.version
    assert (one.manifest.conversation, other.manifest.conversation) == (1, None)
    assert one.prefix == other.prefix


@pytest.mark.heavy
def test_a_budget_counts_the_prompt_and_keeps_the_place(tmp_path: Path) -> None:
    budget = CHAT.replace("features:\n", "budget: {max_tokens: 900, tokenizer: o200k_base}\nfeatures:\n", 1)
    section = budget.replace("Viewer:", '{% section "s" %}Viewer:').replace("}}.\n", "}}.{% endsection %}\n")
    builder = Project.load(make_project(tmp_path, prompts={"budget": budget, "section": section})).builder()
    for name in ("budget", "section"):
        context = builder.build_context(name, user_id="u1", as_of=at(2))
        assert context.manifest.conversation == 1
        assert context.tokens == tokenizer("o200k_base").count(context.text)


def test_the_prefix_ends_before_the_conversation(ask: PromptContext) -> None:
    assert len(ask.manifest.cache_breaks) == 3
    assert ask.prefix is not None
    assert ask.prefix.characters == sum(len(one["content"]) for one in ask.messages[:3])


def test_it_is_explained(chat: PromptContext, ask: PromptContext, tmp_path: Path) -> None:
    assert "conversation: earlier turns go to the end" in chat.explain()
    assert "conversation: earlier turns go between messages 3 and 4" in ask.explain()
    assert "no value in it" not in ask.explain()
    behind = '{% conversation %}{% message "user" %}{{ question }}{% cache_break %}{% endmessage %}'
    text = f"---\ninputs: {{question: str}}\n---\n{behind}"
    context = Project.load(make_project(tmp_path, prompts={"p": text})).builder().build_context("p", question="Why?")
    assert context.prefix is None
    assert "conversation: earlier turns go before the first message" in context.explain()
    assert "prefix: no cache_break ahead of the conversation" in context.explain()


def test_the_short_way_and_history_agree(tmp_path: Path) -> None:
    import pyarrow as pa

    from tests.projects import segment, watched

    text = CHAT.replace("{% cache_break %}\n", "")
    root = make_project(
        tmp_path, segments=[segment("a", "casual", at(1))], counts=[watched("a", 1, at(1))], prompts={"p": text}
    )
    made = Project.load(root)
    made.materialize()
    builder = made.builder()
    assert usual_of(builder.plan("p")) is not None
    online = builder.build_context("p", user_id="a")
    offline = builder.build_context("p", user_id="a", as_of=online.as_of)
    assert online.manifest.conversation == offline.manifest.conversation == 1
    assert online.prompt_id == offline.prompt_id
    spine = pa.table({"user_id": ["a"], "event_timestamp": [online.as_of]})
    row = made.history("p", spine).read_all().to_pylist()[0]
    assert (row["messages"], row["prompt_id"]) == (online.messages, online.prompt_id)


def test_the_checker_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmfeatures.cli.app import run

    root = make_project(tmp_path, prompts={"chat": CHAT, "ask": ASK})
    monkeypatch.chdir(root)
    assert run(["check"]) == 0, capsys.readouterr()
    (root / "prompts" / "bad.prompt.j2").write_text("{{ watched | or_else(0) }}\n{% conversation %}\n")
    (root / "prompts" / "worse.prompt.j2").write_text('{% message "user" %}{% conversation %}{% endmessage %}')
    (root / "prompts" / "typo.prompt.j2").write_text('{% message "user" %}a{% endmessage %}{% conversaton %}')
    capsys.readouterr()
    assert run(["check"]) == 1
    said = "".join(capsys.readouterr())
    assert "bad.prompt.j2:2:4" in said
    assert "this prompt has no message tag" in said
    assert "not inside a message" in said
    assert "did you mean 'conversation'?" in said


# -- chat, responses, anthropic --------------------------------------------------------------------------------------


def test_turns_go_to_their_place(builder: ContextBuilder, chat: PromptContext, ask: PromptContext) -> None:
    plain = builder.build_context("plain", user_id="8a2f")
    assert chat.chat(TURNS + NEW)["messages"] == [*chat.messages, *TURNS, *NEW]
    assert plain.chat(TURNS + NEW)["messages"] == [*plain.messages, *TURNS, *NEW]
    assert chat.chat("Hi")["messages"] == [*chat.messages, {"role": "user", "content": "Hi"}]
    assert ask.chat(TURNS)["messages"] == [*ask.messages[:3], *TURNS, *ask.messages[3:]]
    assert ask.chat([])["messages"] == ask.chat()["messages"] == ask.messages
    assert ask.chat(tuple(TURNS))["messages"] == ask.chat(TURNS)["messages"]
    assert ask.responses(NEW + SAID)["input"] == [*ask.messages[:3], *NEW, *SAID, *ask.messages[3:]]


def test_a_second_question_is_refused(builder: ContextBuilder, ask: PromptContext) -> None:
    final = builder.build_context("final", user_id="8a2f")
    for context in (ask, final):
        for call in (context.chat, context.responses, context.anthropic):
            with pytest.raises(RequestError, match="already ends in a user message; call this without an argument"):
                call("again")
    for call in (final.chat, final.responses, final.anthropic):
        with pytest.raises(RequestError, match=re.escape("write {% conversation %} before that message")):
            call(NEW)


def test_a_list_that_ends_in_a_second_question_is_refused(ask: PromptContext) -> None:
    from openai.types.chat import ChatCompletionMessage

    for call in (ask.chat, ask.responses, ask.anthropic):
        parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        for turns in (NEW, tuple(NEW), [*NEW, *SAID, *NEW], parts):
            with pytest.raises(RequestError, match="'ask' already ends in a user message, and so does the list; give"):
                call(_any(turns))
        assert call([*NEW, *SAID])
    # an answer as the client gives it, a tool's result of each client
    assert ask.chat([*NEW, ChatCompletionMessage(role="assistant", content="Dune.")])
    assert ask.chat([*NEW, {"role": "tool", "tool_call_id": "1", "content": "[]"}])
    assert ask.responses([*NEW, {"type": "function_call_output", "call_id": "1", "output": "[]"}])
    assert ask.anthropic([*NEW, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}])


def test_turns_may_follow_an_example_where_the_prompt_says_so(tmp_path: Path) -> None:
    text = '{% message "user" %}An example.{% endmessage %}{% conversation %}'
    context = Project.load(make_project(tmp_path, prompts={"p": text})).builder().build_context("p")
    assert [one["content"] for one in context.chat("Hi")["messages"]] == ["An example.", "Hi"]
    with pytest.raises(RequestError, match="empty list"):
        context.chat([])


def test_blocks_keep_their_breaks_around_the_turns(ask: PromptContext) -> None:
    marks = [
        [part["prompt_cache_breakpoint"]["mode"] for part in one["content"] if "prompt_cache_breakpoint" in part]
        for one in _any(ask.chat(blocks=True)["messages"])
        if isinstance(one["content"], list)
    ]
    assert marks == [["explicit"], ["explicit"]]
    with_turns = _any(ask.chat(TURNS, blocks=True)["messages"])
    assert with_turns == [*ask.chat(blocks=True)["messages"][:3], *TURNS, *ask.chat(blocks=True)["messages"][3:]]
    items = _any(ask.responses(SAID, blocks=True)["input"])
    assert items == [*ask.responses(blocks=True)["input"][:3], *SAID, *ask.responses(blocks=True)["input"][3:]]


def test_anthropic(ask: PromptContext) -> None:
    turns: list[Any] = [
        {"role": "user", "content": "One"},
        {"role": "user", "content": [{"type": "text", "text": "Two"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "titles", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "[]"}]},
        {"role": "assistant", "content": "None."},
    ]
    mark = {"type": "ephemeral"}
    given: Any = ask.anthropic(turns)
    assert given["system"] == [
        {"type": "text", "text": "Answer for a power_user viewer.", "cache_control": mark},
        {"type": "text", "text": "Be brief."},
    ]
    assert given["messages"] == [
        {"role": "user", "content": "An example."},
        {"role": "assistant", "content": [{"type": "text", "text": "A short answer.", "cache_control": mark}]},
        *turns,
        {"role": "user", "content": [{"type": "text", "text": "Why? (47 watched)", "cache_control": mark}]},
    ]
    for role, hint in (("developer", "prompt file"), ("tool", "tool_result"), ("usr", "'assistant'")):
        with pytest.raises(RequestError, match=rf"user\[1\] is of '{role}'.*{hint}"):
            ask.anthropic([*turns[:1], _any({"role": role, "content": "x"})])
    # what the client's own type takes passes; models before Opus 4.8 do not
    assert _any(ask.anthropic([_any({"role": "system", "content": "x"})]))["messages"][2]["role"] == "system"


def test_anthropic_gets_no_blank_text(tmp_path: Path) -> None:
    names = ("system", "user", "assistant", "developer")
    parts = [f'{{% message "{one}" %}}{{{{ x_{one} }}}}{{% endmessage %}}' for one in names]
    parts.insert(2, '{% message "user" %}One.{% cache_break %}{{ x_user }}{% endmessage %}')
    header = "inputs:\n" + "".join(f"  x_{one}: str\n" for one in names)
    text = f"---\n{header}---\n{''.join(parts)}{{% conversation %}}"
    builder = Project.load(make_project(tmp_path, prompts={"p": text})).builder()
    for values in product(("", " ", "x"), repeat=4):
        context = builder.build_context("p", **{f"x_{name}": value for name, value in zip(names, values, strict=True)})
        given: Any = context.anthropic("Hi?")
        texts = [
            part["text"] if isinstance(part, dict) else part
            for one in [given.get("system", []), *(one["content"] for one in given["messages"])]
            for part in (one if isinstance(one, list) else [one])
        ]
        assert all(one.strip() for one in texts)
        assert "system" not in given or given["system"]
        assert given["messages"][-1] == {"role": "user", "content": "Hi?"}
        full = [one for one in context.messages if one["content"].strip() and one["role"] in ("user", "assistant")]
        assert [one["role"] for one in given["messages"]] == [*(one["role"] for one in full), "user"]
        ordered = sorted(context.messages, key=lambda one: one["role"] in ("user", "assistant"))
        assert "".join(texts).split() == "".join([*(one["content"].strip() for one in ordered), "Hi?"]).split()


@pytest.mark.parametrize("blank", ["", "\n"])
def test_turns_keep_their_place_where_anthropic_gets_less(tmp_path: Path, blank: str) -> None:
    text = (
        "---\ninputs: {x: str}\n---\n"
        '{% message "user" %}{{ x }}{% endmessage %}{% message "assistant" %}A.{% endmessage %}'
        '{% conversation %}{% message "assistant" %}{{ x }}{% endmessage %}{% message "user" %}B?{% endmessage %}'
    )
    context = Project.load(make_project(tmp_path, prompts={"p": text})).builder().build_context("p", x=blank)
    given: Any = context.anthropic([*NEW, *SAID])["messages"]
    assert [one["content"] for one in given] == ["A.", "And then?", "Stalker.", "B?"]
    assert len(context.chat([*NEW, *SAID])["messages"]) == 6


@pytest.mark.heavy
def test_the_clients_own_types_take_it(chat: PromptContext, ask: PromptContext) -> None:
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    adapter = TypeAdapter(CompletionCreateParamsNonStreaming)
    for arguments in (chat.chat(TURNS + NEW), ask.chat(TURNS, blocks=True)):
        adapter.validate_python({"model": "m", **arguments})
    TypeAdapter(MessageCreateParamsNonStreaming).validate_python({"model": "m", "max_tokens": 9, **ask.anthropic(SAID)})


def test_nothing_is_mutated_or_shared(chat: PromptContext) -> None:
    before, messages = copy.deepcopy(TURNS), copy.deepcopy(chat.messages)
    first: Any = chat.chat(TURNS)["messages"]
    first[0]["content"] = "changed"
    first[1]["content"][0]["text"] = "changed"
    first[1]["content"][1]["image_url"]["url"] = "changed"
    first[2]["tool_calls"].append({})
    first.append({})
    assert before == TURNS
    assert chat.messages == messages
    assert chat.chat(TURNS)["messages"] == [*messages, *before]
    for call in (chat.responses, chat.anthropic):
        made: Any = call(NEW)
        made["input" if "input" in made else "messages"][-1]["content"] = "changed"
    assert NEW == [{"role": "user", "content": "And then?"}]


@pytest.mark.parametrize(
    ("user", "said"),
    [
        (b"Hi", "text or a list of messages, not bytes"),
        (NEW[0], "not dict; put it into a list"),
        (5, "not int"),
        ({"Hi"}, "not set"),
        (iter(NEW), "not list_iterator"),
        ([], "an empty list"),
        (["Hi"], r'user\[0\] is a message like {"role": "user", "content": "…"}, not str'),
        ([NEW[0], {"content": "Hi"}], r"user\[1\] has no role; a message has a role"),
        ([{"role": "user"}], r"user\[0\], a message of 'user', has no content; give it text"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": 1, "content": "Hi"}], "has no role"),
        ([{"role": "user", "content": ["s3cret", threading.Lock()]}], "cannot be copied"),
    ],
)  # fmt: skip
def test_what_is_no_turn(chat: PromptContext, user: Any, said: str) -> None:
    for call in (chat.chat, chat.responses, chat.anthropic):
        with pytest.raises(RequestError, match=said.replace("{", r"\{")) as raised:
            call(user)
        assert "s3cret" not in str(raised.value)


def test_an_assistant_message_may_have_a_call_in_place_of_content(chat: PromptContext) -> None:
    assert chat.chat(TURNS)["messages"]
    with pytest.raises(RequestError, match="no content"):
        chat.chat([{"role": "assistant"}])
    item: Any = {"type": "function_call_output", "call_id": "1", "output": "[]"}
    assert chat.responses([item])["input"][-1] == item


def test_parts_of_answers_go_back_as_the_client_would_send_them(chat: PromptContext) -> None:
    from openai.types.chat import ChatCompletionMessage
    from openai.types.responses import ResponseFunctionToolCall

    call = {"id": "1", "type": "function", "function": {"name": "titles", "arguments": "{}"}}
    answer = ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call]})
    assert chat.chat([answer])["messages"][-1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    item = ResponseFunctionToolCall(type="function_call", call_id="1", name="titles", arguments="{}")
    assert chat.responses([item])["input"][-1] == {
        "type": "function_call", "call_id": "1", "name": "titles", "arguments": "{}",
    }  # fmt: skip


def test_a_chat_can_freeze_its_context(chat: PromptContext, ask: PromptContext) -> None:
    for context in (chat, ask):
        again = PromptContext.model_validate_json(context.model_dump_json())
        assert again == context
        assert again.manifest.conversation is not None
        for turns in (TURNS, None):
            assert again.chat(turns) == context.chat(turns)
            assert again.chat(turns, blocks=True) == context.chat(turns, blocks=True)
        assert again.anthropic(SAID) == context.anthropic(SAID)
        assert again.responses(SAID, blocks=True) == context.responses(SAID, blocks=True)


ROLES = st.sampled_from(["system", "developer", "user", "assistant"])


@settings(max_examples=50)
@given(roles=st.lists(ROLES, min_size=1, max_size=6), data=st.data(), count=st.integers(0, 3))
def test_laws_of_places(roles: list[str], data: st.DataObject, count: int) -> None:
    conversation = data.draw(st.none() | st.integers(0, len(roles)))
    turns = [*[{"role": "user", "content": str(one)} for one in range(count)], *SAID * data.draw(st.integers(0, 1))]
    user: Any = data.draw(st.just("Hi") | st.just(turns))
    asks = roles[-1] == "user" and conversation != len(roles)
    try:
        place = place_of("p", roles, conversation, user)
    except RequestError:
        assert asks or user == []
        assert isinstance(user, str) or conversation is None or not user or user[-1]["role"] == "user"
        return
    assert place == (len(roles) if conversation is None else conversation)
    assert not asks or (conversation is not None and not isinstance(user, str))
    assert not asks or not user or user[-1]["role"] == "assistant"


def test_messages_are_typed() -> None:
    assert Message.__annotations__.keys() == {"role", "content"}


def _any(value: Any) -> Any:
    return value
