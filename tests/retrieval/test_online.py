"""Documents in prompts that are built online: the merge, its order in time, policies and time limits."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import FunctionEmbedder, Project, PromptContext, Retriever
from llmfeatures.embedding.function import FunctionModel
from llmfeatures.errors import (
    DocumentsUnavailableError,
    EntityMismatchError,
    FeatureNotPresentError,
    LLMFeaturesError,
    PromptError,
    RequestError,
    RetrieverError,
    RetrieverUnavailableError,
)
from llmfeatures.finders import Vectors, checked
from llmfeatures.ports import NO_ENTITY, Document, DocumentQuery
from llmfeatures.threads import SEARCHES, DaemonThreads, ForkLock
from tests.retrieval.online_project import NOW, USER, Find, document, make_project, prompt, retriever

ASK = '{retriever: sessions, query: "{{ question }}"'
NONE = f"{ASK}, on_unavailable: none}}"
WAYS = ("sync", "async")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Both builders."""
    return request.param


def build(project: Project, way: str, name: str = "home", **options: Any) -> PromptContext:
    """A prompt, by the one or the other builder."""
    return rows(project, way, [{"user_id": "u", "question": "q"} | options.pop("given", {})], name, **options)[0]


def rows(project: Project, way: str, given: list[dict[str, Any]], name: str = "home", **options: Any) -> Any:
    """Many prompts; one row by `build_context`."""
    one = given[0] if len(given) == 1 else None
    if way == "sync":
        builder = project.builder()
        return (
            [builder.build_context(name, **options, **one)] if one else builder.build_contexts(name, given, **options)
        )

    async def run() -> Any:
        asking = project.async_builder()
        try:
            if one:
                return [await asking.build_context(name, **options, **one)]
            return await asking.build_contexts(name, given, **options)
        finally:
            await asking.aclose()

    return asyncio.run(run())


def simple(root: Path, find: Find, documents: str = f"{ASK}}}", **options: Any) -> Project:
    """A project with one retriever and the prompt ``home``."""
    return make_project(root, retriever(find), prompts={"home": prompt(documents, **options)})


def ids(made: PromptContext, name: str = "docs") -> list[str]:
    """Of the documents of a prompt."""
    return [one.id for one in made.documents[name]]


# -- the merge -------------------------------------------------------------------------------------------------------


def test_what_is_found_is_in_the_prompt_the_context_and_the_manifest(tmp_path: Path, way: str) -> None:
    asked: list[DocumentQuery] = []

    def find(query: DocumentQuery) -> Any:
        asked.append(query)
        return [document("b", score=0.5), document("a", score=0.5), document("c", score=0.9, valid_from="2026-05-01")]

    made = build(simple(tmp_path, find), way)
    (query,) = asked
    assert (query.text, query.entity, query.keys, query.as_of, query.order) == (
        "q",
        "user_id:u",
        {"user_id": "u"},
        NOW,
        "score",
    )
    assert ids(made) == ["c", "a", "b"]
    assert made.text == "Genre drama\nc\na\nb"
    first = made.documents["docs"][0]
    assert (first.tier, first.score, first.valid_from) == ("exact", 0.9, datetime(2026, 5, 1, tzinfo=UTC))
    said = made.manifest.retrievals["docs"]
    assert (said.retriever, said.tier, said.status, said.found, said.kept) == ("sessions", "exact", "found", 3, 3)
    assert set(made.manifest.timings) == {"features", "docs"}
    assert not made.manifest.degraded
    assert made.as_of == NOW


def test_doubles_scores_limits_and_cuts_work_together(tmp_path: Path, way: str) -> None:
    long = "one two three four five six seven eight nine ten"

    def find(_: DocumentQuery) -> Any:
        return [
            document("a", long, score=0.9),
            document("a", "an older version", score=0.85),
            document("b", "one two three four, but another end of it", score=0.8),  # the same, once it is cut
            document("c", "short", score=0.7),
            document("d", "short", score=0.6),
            document("e", "e", score=0.5),
            document("f", "f", score=0.4),
            document("g", "g", score=0.1),
        ]

    project = simple(
        tmp_path,
        find,
        f"{ASK}, top_k: 4, min_score: 0.3, max_tokens: 4}}",
        header="budget: {max_tokens: 300, tokenizer: o200k_base}\n",
    )
    made = build(project, way)
    assert ids(made) == ["a", "c", "e", "f"]
    assert made.documents["docs"][0].text == "one two three four"
    said = made.manifest.retrievals["docs"]
    assert (said.kept, said.doubles, said.cut, said.below_min_score) == (4, 3, 1, 1)


def test_a_text_is_there_once_whichever_name_found_it(tmp_path: Path, way: str) -> None:
    def find(query: DocumentQuery) -> Any:
        if query.order == "recent":
            return [document("x", "same", valid_from="2026-05-02"), document("y", "new", valid_from="2026-05-03")]
        return [document("z", "same")]

    documents = f"{ASK}}}\n  newest: {{retriever: sessions, order: recent, top_k: 5}}"
    made = build(simple(tmp_path, find, documents), way)
    assert (ids(made), ids(made, "newest")) == (["z"], ["y"])
    assert made.documents["newest"][0].score is None
    assert made.manifest.retrievals["newest"].doubles == 1


def test_brought_features_are_read_for_each_document_by_their_policies(tmp_path: Path, way: str) -> None:
    def find(_: DocumentQuery) -> Any:
        return [document("a", metadata={"title_id": "t1"}), document("b", metadata={"title_id": "t2"}), document("c")]

    body = "{% for d in docs %}{{ d.id }} {{ d.title.rating }}\n{% endfor %}"
    project = simple(tmp_path, find, body=body)
    before = build(project, way)
    assert before.manifest.degraded  # nothing says yet that the titles without a rating have none
    project.materialize(["ratings", "taste"])
    made = build(project, way)
    assert not made.manifest.degraded
    assert made.text.splitlines()[1:] == ["a 4.5", "b 0.0", "c 0.0"]
    found = [one.features["title"]["rating"] for one in made.documents["docs"]]
    assert [(one.value, one.status) for one in found] == [(4.5, "present"), (None, "missing"), (None, "missing")]
    assert set(made.manifest.timings) == {"features", "docs", "docs.title"}
    assert made.manifest.retrievals["docs"].features["title.rating"].view == "ratings"


def test_documents_of_nobody_are_none_and_are_not_searched(tmp_path: Path, way: str) -> None:
    def find(_: DocumentQuery) -> Any:
        raise AssertionError

    made = build(simple(tmp_path, find), way, given={"user_id": None})
    assert made.documents == {"docs": []}
    assert made.manifest.retrievals["docs"].status == "skipped"
    empty = build(simple(tmp_path / "two", find), way, given={"question": ""})
    assert empty.manifest.retrievals["docs"].status == "skipped"
    assert not made.manifest.degraded


def test_a_filter_compares_with_values_of_the_prompt_and_none_is_equal_to_nothing(tmp_path: Path, way: str) -> None:
    asked: list[DocumentQuery] = []

    def find(query: DocumentQuery) -> Any:
        asked.append(query)
        return [document("a", metadata={"title_id": query.filter["title_id"]})]

    documents = '{retriever: sessions, order: recent, filter: {title_id: "{{ wanted }}"}}'
    text = prompt(documents).replace("{question: str}", "{wanted: {type: str, default: null}}")
    project = make_project(tmp_path, retriever(find), prompts={"home": text})
    assert ids(rows(project, way, [{"user_id": "u", "wanted": "t1"}])[0]) == ["a"]
    assert rows(project, way, [{"user_id": "u"}])[0].manifest.retrievals["docs"].status == "skipped"
    assert [dict(one.filter) for one in asked] == [{"title_id": "t1"}]


def test_a_filter_by_a_feature_waits_for_it(tmp_path: Path, way: str) -> None:
    def find(query: DocumentQuery) -> Any:
        return [document("a", metadata={"title_id": query.filter["title_id"]})]

    documents = '{retriever: sessions, order: recent, filter: {title_id: "{{ genre }}"}}'
    made = build(simple(tmp_path, find, documents), way)
    assert made.documents["docs"][0].metadata == {"title_id": "drama"}


def test_a_filter_of_another_dtype_is_refused_when_the_prompt_is_compiled(tmp_path: Path) -> None:
    documents = '{retriever: sessions, order: recent, filter: {title_id: "{{ number }}"}}'
    text = prompt(documents).replace("{question: str}", "{number: int}")
    project = make_project(tmp_path, retriever(lambda _: []), prompts={"home": text})
    with pytest.raises(PromptError, match=r"filter title_id is str, and 'number' is int; they are never equal"):
        project.builder().plan("home")


# -- what is read when -----------------------------------------------------------------------------------------------


class Meeting:
    """Says whether two parties were at work at the same time: each waits for the other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.met = False

    def come(self) -> None:
        """Wait for the other."""
        try:
            self.barrier.wait(2)
            self.met = True
        except threading.BrokenBarrierError:
            pass


def test_two_searches_and_the_features_go_on_at_the_same_time(tmp_path: Path, way: str) -> None:
    meeting = Meeting()

    def find(query: DocumentQuery) -> Any:
        meeting.come()
        return [document(str(query.text))]

    documents = f'{ASK}}}\n  more: {{retriever: sessions, query: "more {{{{ question }}}}"}}'
    made = build(simple(tmp_path, find, documents), way)
    assert meeting.met
    assert (ids(made), ids(made, "more")) == (["q"], ["more q"])


def test_features_are_read_while_a_search_goes_on_that_needs_none(tmp_path: Path) -> None:
    meeting = Meeting()

    def find(_: DocumentQuery) -> Any:
        meeting.come()
        return [document("a")]

    project = simple(tmp_path, find)
    read = project.online.read

    def slow(*args: Any, **options: Any) -> Any:
        meeting.come()
        return read(*args, **options)

    project.online.read = slow  # type: ignore[method-assign]
    made = build(project, "sync")
    assert meeting.met
    assert (made.text, made.features["genre"].value) == ("Genre drama\na", "drama")


def test_a_query_with_a_feature_waits_for_its_value(tmp_path: Path, way: str) -> None:
    asked: list[Any] = []

    def find(query: DocumentQuery) -> Any:
        asked.append(query.text)
        return []

    documents = '{retriever: sessions, query: "{{ genre }} {{ question }} {{ user_id }}"}'
    build(simple(tmp_path, find, documents), way)
    assert asked == ["drama q u"]


def test_a_feature_newer_than_the_clock_is_the_moment_for_documents_too(tmp_path: Path, way: str) -> None:
    later = NOW + timedelta(minutes=2)
    asked: list[datetime] = []

    def find(query: DocumentQuery) -> Any:
        asked.append(query.as_of)
        return [document("a")]

    project = simple(tmp_path, find)
    project.push("taste", [{"user_id": "u", "genre": "noir", "event_timestamp": later}])
    made = build(project, way)
    assert made.as_of == later
    assert made.features["genre"].value == "noir"
    assert asked == [NOW, later]
    assert made.manifest.retrievals["docs"].kept == 1


def test_a_brought_feature_newer_than_the_clock_is_the_moment_too(tmp_path: Path, way: str) -> None:
    later = NOW + timedelta(minutes=2)
    asked: list[datetime] = []

    def find(query: DocumentQuery) -> Any:
        asked.append(query.as_of)
        return [document("a", metadata={"title_id": "t1"})]

    project = simple(tmp_path, find, body="{% for d in docs %}{{ d.title.rating }}{% endfor %}")
    project.push("ratings", [{"title_id": "t1", "rating": 1.5, "event_timestamp": later}])
    made = build(project, way)
    assert (made.as_of, made.text) == (later, "Genre drama\n1.5")
    assert asked == [NOW, later]


def test_documents_that_come_at_the_moment_of_a_brought_feature_may_bring_a_newer_one(tmp_path: Path, way: str) -> None:
    moments = [NOW + timedelta(seconds=10 * number) for number in range(7)]
    dated = [document(f"d{n}", metadata={"title_id": f"n{n}"}, valid_from=one) for n, one in enumerate(moments[:-1])]
    project = simple(tmp_path, lambda _: dated, f"{ASK}, top_k: 9}}", body="{{ docs[0].title.rating }}")
    project.push(
        "ratings",
        [{"title_id": f"n{n}", "rating": 1.0, "event_timestamp": one} for n, one in enumerate(moments[1:])],
    )
    made = build(project, way)
    assert made.as_of == moments[-1]
    assert len(ids(made)) == len(dated)


def test_many_rows_are_one_search_with_a_query_each(tmp_path: Path, way: str) -> None:
    def find(query: DocumentQuery) -> Any:
        return [document(f"{query.keys['user_id']}-{query.text}", user=query.keys["user_id"])]

    project = simple(tmp_path, find)
    given = [{"user_id": one, "question": "q"} for one in ("u", "v", None, "u")]
    made = rows(project, way, given)
    assert [ids(one) for one in made] == [["u-q"], ["v-q"], [], ["u-q"]]
    assert [one.manifest.retrievals["docs"].status for one in made] == ["found", "found", "skipped", "found"]
    assert [one.as_of for one in made] == [NOW] * 4


def test_an_error_of_one_row_names_it(tmp_path: Path, way: str) -> None:
    documents = '{retriever: sessions, query: "{{ genre }}"}'
    text = prompt(documents).replace("genre: {default: nothing}", "genre: {on_missing: error}")
    project = make_project(tmp_path, retriever(lambda _: []), prompts={"home": text})
    with pytest.raises(FeatureNotPresentError, match=r"^row 1: feature 'genre'"):
        rows(project, way, [{"user_id": one, "question": "q"} for one in ("u", "nobody")])


# -- policies --------------------------------------------------------------------------------------------------------


def failing(error: Exception) -> Find:
    """A function that raises."""

    def find(_: DocumentQuery) -> Any:
        raise error

    return find


def test_a_failure_is_a_typed_error_that_names_the_retriever_and_no_value(tmp_path: Path, way: str) -> None:
    project = simple(tmp_path, failing(ValueError("secret of u")))
    with pytest.raises(DocumentsUnavailableError) as raised:
        build(project, way)
    assert (raised.value.documents, raised.value.retriever) == ("docs", "sessions")
    assert "the function of retriever 'sessions' raised ValueError" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "on_unavailable: none" in str(raised.value)


def test_by_the_policy_none_the_prompt_goes_without(tmp_path: Path, way: str) -> None:
    project = simple(tmp_path, failing(RetrieverUnavailableError("the database is away")), NONE)
    made = build(project, way)
    assert made.text == "Genre drama"
    said = made.manifest.retrievals["docs"]
    assert (said.status, said.problem, said.found, said.kept) == ("unavailable", "the database is away", 0, 0)
    assert made.manifest.degraded
    assert made.documents == {"docs": []}
    assert "degraded: the database is away" in made.explain()


def test_one_that_fails_does_not_take_the_others_with_it(tmp_path: Path, way: str) -> None:
    def find(query: DocumentQuery) -> Any:
        if query.order == "recent":
            raise OSError
        return [document("a")]

    documents = f"{NONE}\n  newest: {{retriever: sessions, order: recent, on_unavailable: none}}"
    made = build(simple(tmp_path, find, documents), way)
    assert (ids(made), ids(made, "newest")) == (["a"], [])
    assert [one.status for one in made.manifest.retrievals.values()] == ["found", "unavailable"]


def test_an_embedder_that_fails_obeys_the_policy_too(tmp_path: Path, way: str) -> None:
    def embed(texts: list[str]) -> Any:
        raise ConnectionError(texts)

    source = tmp_path / "docs.jsonl"
    source.write_text("")
    one = Retriever(
        "sessions", USER, "docs.jsonl", embedder=FunctionEmbedder(embed, model="m", dimensions=2),
        metadata={"title_id": "str"},
    )  # fmt: skip
    made = build(make_project(tmp_path, one, prompts={"home": prompt(NONE)}), way)
    assert made.manifest.retrievals["docs"].status == "unavailable"
    assert made.manifest.retrievals["docs"].model == "m"
    problem = str(made.manifest.retrievals["docs"].problem)
    assert "q" not in re.findall(r"\w+", problem)


@pytest.mark.parametrize("timeout", ["call", "configured"])
def test_one_that_hangs_is_left_behind(tmp_path: Path, way: str, timeout: str) -> None:
    end = threading.Event()

    def find(_: DocumentQuery) -> Any:
        end.wait(30)
        return [document("late")]

    config = '\n[retrieval]\ntimeout = "300ms"\n' if timeout == "configured" else ""
    project = make_project(tmp_path, retriever(find), prompts={"home": prompt(NONE)}, config=config)
    try:
        made = build(project, way, **({"timeout": "300ms"} if timeout == "call" else {}))
        assert made.manifest.retrievals["docs"].problem == "retriever 'sessions' did not answer in time"
        assert made.features["genre"].value == "drama"
        assert made.manifest.timings["docs"] > made.manifest.timings["features"]
    finally:
        end.set()
        wait_until(lambda: SEARCHES.running == 0)


@pytest.mark.heavy
def test_one_budget_bounds_all_legs_together(tmp_path: Path, way: str) -> None:
    def find(_: DocumentQuery) -> Any:
        time.sleep(1.2)
        return [document("a")]

    documents = (
        f'{NONE}\n  late: {{retriever: sessions, query: "{{{{ genre }}}} {{{{ question }}}}", on_unavailable: none}}'
    )
    project = simple(tmp_path, find, documents)
    made = build(project, way, timeout="2s")
    assert [one.status for one in made.manifest.retrievals.values()] == ["found", "unavailable"]
    wait_until(lambda: SEARCHES.running == 0)


def test_a_search_that_hangs_lets_those_of_another_retriever_go_on(tmp_path: Path) -> None:
    end = threading.Event()

    def hang(_: DocumentQuery) -> Any:
        end.wait(30)
        return []

    one = Retriever("stuck", USER, function=hang)
    two = retriever(lambda _: [document("a")])
    texts = {"home": prompt(NONE), "bad": prompt(NONE.replace("sessions", "stuck"))}
    project = make_project(tmp_path, one, two, prompts=texts)
    builder = project.builder()
    try:
        with ThreadPoolExecutor(40) as pool:
            stuck = [
                pool.submit(builder.build_context, "bad", user_id="u", question="q", timeout=0.05) for _ in range(40)
            ]
            assert all(one.result().manifest.degraded for one in stuck)
        assert ids(builder.build_context("home", user_id="u", question="q")) == ["a"]
    finally:
        end.set()
        wait_until(lambda: SEARCHES.running == 0)


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + 10
    while not done() and time.monotonic() < end:
        time.sleep(0.005)
    assert done()


def test_a_cancelled_call_leaves_its_search(tmp_path: Path) -> None:
    began, end = threading.Event(), threading.Event()

    def find(_: DocumentQuery) -> Any:
        began.set()
        end.wait(30)
        return []

    project = simple(tmp_path, find)

    async def run() -> None:
        builder = project.async_builder()
        task = asyncio.create_task(builder.build_context("home", user_id="u", question="q", timeout=20))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [one for one in asyncio.all_tasks() if one is not asyncio.current_task()] == []
        await builder.aclose()

    try:
        asyncio.run(run())
    finally:
        end.set()
        wait_until(lambda: SEARCHES.running == 0)


def test_the_event_loop_goes_on_while_a_function_searches(tmp_path: Path) -> None:
    end = threading.Event()

    def find(_: DocumentQuery) -> Any:
        assert end.wait(10)  # set by the event loop, which must not wait for this
        return [document("a")]

    project = simple(tmp_path, find)

    async def run() -> PromptContext:
        builder = project.async_builder()
        task = asyncio.create_task(builder.build_context("home", user_id="u", question="q", timeout=10))
        for _ in range(20):
            await asyncio.sleep(0.001)
        end.set()
        made = await task
        await builder.aclose()
        return made

    assert ids(asyncio.run(run())) == ["a"]


def test_an_async_function_runs_in_the_loop_that_asks_and_is_cancelled_when_late(tmp_path: Path) -> None:
    loops: list[Any] = []
    cancelled: list[bool] = []

    async def find(query: DocumentQuery) -> Any:
        loops.append(asyncio.get_running_loop())
        if query.text == "hang":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
        return [document("a")]

    project = simple(tmp_path, find, NONE)
    assert ids(build(project, "sync")) == ["a"]

    async def run() -> None:
        builder = project.async_builder()
        assert ids(await builder.build_context("home", user_id="u", question="q")) == ["a"]
        assert loops[-1] is asyncio.get_running_loop()
        assert ids(project.builder().build_context("home", user_id="u", question="q")) == ["a"]  # as in a notebook
        late = await builder.build_context("home", user_id="u", question="hang", timeout="50ms")
        assert late.manifest.retrievals["docs"].status == "unavailable"
        many = await builder.build_contexts("home", [{"user_id": "u", "question": one} for one in ("a", "b")])
        assert [ids(one) for one in many] == [["a"], ["a"]]
        await builder.aclose()

    asyncio.run(run())
    assert cancelled == [True]


# -- functions -------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str]] = [
    ("no list", {"id": "a"}, "returned a dict, not a list of documents"),
    ("nothing", None, "returned a NoneType, not a list"),
    ("texts", ["a"], "returned a str among the documents"),
    ("no id", [{"text": "x", "score": 1, "user_id": "u"}], "whose id is no text"),
    ("no score", [{"id": "a", "text": "x", "user_id": "u"}], "without a score"),
    ("nan", [document("a", score=float("nan"))], "without a score, a finite number"),
    ("huge", [document("a", score=10**400)], "without a score"),
    ("no key", [{"id": "a", "text": "x", "score": 1}], "without 'user_id', the join key"),
    ("wrong key", [{"id": "a", "text": "x", "score": 1, "user_id": 7}], "whose 'user_id' does not fit"),
    ("metadata", [document("a", metadata={"title_id": 7})], "metadata 'title_id' does not fit"),
    ("metadata list", [document("a", metadata=["x"])], "whose metadata is no mapping"),
    ("moment", [document("a", valid_from="tomorrow")], "whose valid_from is no datetime"),
]


@pytest.mark.parametrize(("_", "returned", "said"), WRONG, ids=[one[0] for one in WRONG])
def test_what_is_no_document_is_said_without_its_values(tmp_path: Path, _: str, returned: Any, said: str) -> None:
    with pytest.raises(DocumentsUnavailableError, match=re.escape(said)):
        build(simple(tmp_path, lambda _: returned), "sync")


def test_a_function_may_return_documents_and_any_iterable(tmp_path: Path, way: str) -> None:
    def find(query: DocumentQuery) -> Any:
        yield Document(id="a", version="1", text="x", entity=query.entity, score=0.25)
        yield document("b", "\ud800", score=1)

    made = build(simple(tmp_path, find), way)
    assert [(one.id, one.text, one.score) for one in made.documents["docs"]] == [("b", "\ufffd", 1.0), ("a", "x", 0.25)]
    assert PromptContext.model_validate_json(made.model_dump_json()) == made


def test_another_entitys_document_is_an_error_whatever_the_policy(tmp_path: Path, way: str) -> None:
    project = simple(tmp_path, lambda _: [document("a", user="v")], NONE)
    with pytest.raises(EntityMismatchError, match="'sessions' answered with a document of another entity"):
        build(project, way)


def test_a_document_that_the_filter_excludes_is_not_used(tmp_path: Path, way: str) -> None:
    documents = "{retriever: sessions, order: recent, filter: {title_id: t1}, on_unavailable: none}"
    project = simple(tmp_path, lambda _: [document("a", metadata={"title_id": "t2"})], documents)
    problem = build(project, way).manifest.retrievals["docs"].problem
    assert problem is not None
    assert "'title_id' the filter excludes" in problem


def test_too_few_answers_are_no_answer() -> None:
    query = DocumentQuery(top_k=1, as_of=NOW, entity=NO_ENTITY)
    with pytest.raises(RetrieverError, match="gave 1 answers to 2 queries"):
        checked("sessions", [query, query], [[]])


def test_a_builder_without_retrievers_says_where_to_get_one(tmp_path: Path) -> None:
    from llmfeatures.builder import ContextBuilder

    project = simple(tmp_path, lambda _: [])
    builder = ContextBuilder(project.prompts, project.online, lambda: project.offline, project.clock)
    with pytest.raises(LLMFeaturesError, match=r"no retrievers; make it with ContextBuilder.from_project"):
        builder.build_context("home", user_id="u", question="q")


DATED = [
    document("ended", valid_to=NOW),
    document("later", valid_from=NOW + timedelta(microseconds=1)),
    document("there", valid_from=NOW, valid_to=NOW + timedelta(microseconds=1)),
]


def test_a_function_gives_no_document_of_another_moment(tmp_path: Path, way: str) -> None:
    assert ids(build(simple(tmp_path, lambda _: DATED), way)) == ["there"]


def test_a_live_function_knows_no_moment(tmp_path: Path) -> None:
    live = Retriever("sessions", USER, function=lambda _: DATED)
    prompts = {"home": f"---\ninputs: {{question: str}}\ndocuments: {{docs: {ASK}}}}}\n---\n{{{{ docs }}}}"}
    assert len(ids(build(make_project(tmp_path, live, prompts=prompts), "sync"))) == 3


def test_join_keys_and_inputs_are_still_checked(tmp_path: Path, way: str) -> None:
    with pytest.raises(RequestError, match="user_id is of type str"):
        build(simple(tmp_path, lambda _: []), way, given={"user_id": 7})


def searching_threads() -> list[threading.Thread]:
    """The threads of searches, also those that are idle."""
    return [one for one in threading.enumerate() if one.name.startswith("llmfeatures-search")]


def test_many_threads_get_their_own_documents_and_leave_no_thread(tmp_path: Path) -> None:
    def find(query: DocumentQuery) -> Any:
        name = query.keys["user_id"]
        return [document(f"{name}-{query.text}", user=name)]

    builder = simple(tmp_path, find).builder()

    def ask(number: int) -> bool:
        user, question = f"u{number % 7}", f"q{number}"
        return ids(builder.build_context("home", user_id=user, question=question, timeout=20)) == [f"{user}-{question}"]

    before = len(searching_threads())
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(240)))
    wait_until(lambda: SEARCHES.running == 0)
    assert len(searching_threads()) <= max(before, 9)


def test_the_vectors_of_queries_that_are_asked_again_stay() -> None:
    embedder = FunctionModel(FunctionEmbedder(lambda texts: [[1.0] for _ in texts], model="m", dimensions=1))
    vectors = Vectors(embedder, size=2)
    again = [DocumentQuery(top_k=1, as_of=NOW, text="again")]
    vectors.of(["again", "once"], None)
    assert vectors.known(again)
    vectors.of(["new"], None)
    assert vectors.known(again)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_threads_end_when_they_are_idle_and_are_used_again() -> None:
    threads = DaemonThreads(at_once=2, idle=0.05)
    before = threading.active_count()
    first = threads.submit("a", threading.get_ident).result(5)
    assert threads.submit("a", threading.get_ident).result(5) == first or threading.active_count() <= before + 2
    wait_until(lambda: threading.active_count() <= before)
    assert threads.submit("a", lambda: 7).result(5) == 7


def test_of_one_key_some_run_and_others_wait_and_a_cancelled_one_never_runs() -> None:
    threads = DaemonThreads(at_once=2, idle=0.05)
    end, ran = threading.Event(), list[int]()
    held = [threads.submit("a", lambda: end.wait(10)) for _ in range(2)]
    waiting = [threads.submit("a", lambda one=one: ran.append(one)) for one in range(3)]
    assert threads.submit("b", lambda: "other").result(5) == "other"
    assert waiting[1].cancel()
    end.set()
    for one in (*held, waiting[0], waiting[2]):
        one.result(5)
    assert ran == [0, 2]
    wait_until(lambda: threads.running == 0)


def test_calls_that_nobody_waits_for_any_more_do_not_pile_up_behind_one_that_hangs() -> None:
    threads = DaemonThreads(at_once=1, idle=0.05)
    end = threading.Event()
    threads.submit("a", lambda: end.wait(10))
    left: list[weakref.ref[Any]] = []
    for _ in range(100):
        call = threads.submit("a", lambda: None)
        left.append(weakref.ref(call))
        call.cancel()
        del call
    assert sum(one() is not None for one in left) <= 1
    end.set()


def test_a_thread_that_cannot_be_started_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads(at_once=1, idle=0.05)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            threads.submit("a", lambda: 1)
    assert threads.submit("a", lambda: 2).result(5) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_lock_that_another_thread_held_is_free_in_a_child() -> None:
    lock, held, end = ForkLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        with lock:
            os._exit(0)
    end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_searches_too(tmp_path: Path) -> None:
    project = simple(tmp_path, lambda _: [document("a")])
    builder = project.builder()
    builder.build_context("home", user_id="u", question="q")
    child = os.fork()
    if child == 0:
        done = 1
        try:
            done = 0 if ids(builder.build_context("home", user_id="u", question="q")) == ["a"] else 1
        finally:
            os._exit(done)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


HANGS = """
import asyncio, sys, threading
from pathlib import Path
from tests.retrieval.online_project import make_project, prompt, retriever

def find(query):
    threading.Event().wait()

text = prompt('{retriever: sessions, query: "{{ question }}", on_unavailable: none}')
project = make_project(Path(sys.argv[1]), retriever(find), prompts={"home": text})
made = project.builder().build_context("home", user_id="u", question="q", timeout=0.05)

async def run():
    builder = project.async_builder()
    found = await builder.build_context("home", user_id="u", question="q", timeout=0.05)
    await builder.aclose()
    return found

print(made.manifest.degraded, asyncio.run(run()).manifest.degraded, flush=True)
project.close()
"""


@pytest.mark.heavy
def test_the_process_ends_while_a_function_hangs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HANGS, str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True True", "")


class Loading:
    """A store that takes longer to load than a search may take."""

    tier = "exact"

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def prepare(self) -> None:
        """Load."""
        time.sleep(0.4)
        self.loaded.append(os.getpid())

    def search(self, queries: Any, *, timeout: float | None = None) -> list[list[Document]]:
        """Answer, once it is loaded."""
        assert timeout is not None
        if not self.loaded:
            self.prepare()
        return [[Document(id="a", version="1", text="x", entity=one.entity, score=0.5)] for one in queries]

    def close(self) -> None:
        """Nothing is open."""


def test_what_is_loaded_once_is_not_in_the_time_of_a_search(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Loading()
    monkeypatch.setattr("llmfeatures.config.open_documents", lambda *_: store)
    config = '\n[retrieval]\ntimeout = "200ms"\n'
    project = make_project(tmp_path, retriever(lambda _: []), prompts={"home": prompt(NONE)}, config=config)
    assert ids(build(project, way)) == ["a"]
    assert ids(build(project, way)) == ["a"]
    assert set(store.loaded) == {os.getpid()}


def test_all_calls_that_come_while_something_is_loaded_wait_for_it(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Loading()
    monkeypatch.setattr("llmfeatures.config.open_documents", lambda *_: store)
    config = '\n[retrieval]\ntimeout = "200ms"\n'
    project = make_project(tmp_path, retriever(lambda _: []), prompts={"home": prompt(NONE)}, config=config)

    async def together() -> list[PromptContext]:
        asking = project.async_builder()
        try:
            return await asyncio.gather(*[asking.build_context("home", user_id="u", question="q") for _ in range(4)])
        finally:
            await asking.aclose()

    if way == "async":
        made = asyncio.run(together())
    else:
        builder = project.builder()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: builder.build_context("home", user_id="u", question="q"), range(4)))
    assert [ids(one) for one in made] == [["a"]] * 4
    assert store.loaded == [os.getpid()]


def test_a_call_with_a_limit_of_its_own_keeps_it_while_something_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Loading()
    monkeypatch.setattr("llmfeatures.config.open_documents", lambda *_: store)
    project = make_project(tmp_path, retriever(lambda _: []), prompts={"home": prompt(NONE)})
    builder = project.builder()
    assert ids(builder.build_context("home", user_id="u", question="q", timeout=0.1)) == []
    wait_until(lambda: SEARCHES.running == 0)
    builder.prepare()
    assert ids(builder.build_context("home", user_id="u", question="q", timeout=5)) == ["a"]
