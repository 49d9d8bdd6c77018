"""What a prompt with documents is as JSON, over HTTP, in an explanation, on the command line, and in a release."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmfeatures import (
    AsyncClient,
    Client,
    Entity,
    FeatureView,
    Project,
    PromptContext,
    PushSource,
    Registry,
    Retriever,
)
from llmfeatures.builder import ContextBuilder
from llmfeatures.clock import iso
from llmfeatures.config import find_config
from llmfeatures.errors import DocumentsUnavailableError, EntityMismatchError, ReleaseError
from llmfeatures.explain import explain_json, explained
from llmfeatures.ports import DocumentQuery
from llmfeatures.releases import Release, ReleasedPrompt
from llmfeatures.releases.changes import changes
from llmfeatures.releases.content import read, release_id, written
from llmfeatures.releases.definitions import rebuilt_registry, registry_json
from llmfeatures.releases.making import made_release
from llmfeatures.retriever import DocumentSource, FunctionEmbedder, OnnxEmbedder, OpenAIEmbedder
from llmfeatures.service import create_app
from llmfeatures.service.encode import ContextWriter
from llmfeatures.service.log import RequestLog
from tests.retrieval.online_project import NOW, TITLE, USER, document, make_project, prompt, retriever
from tests.service.world import served

ASK = '{retriever: sessions, query: "{{ question }}"'
DTYPES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(max_size=8),
    "enum[a,b]": st.sampled_from(["a", "b"]),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "timestamp": st.datetimes(datetime(1970, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    "date": st.dates(date(1, 1, 1)),
    "decimal(12,3)": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda one: Decimal(one).scaleb(-3)),
    "list[str]": st.lists(st.text(max_size=4), max_size=3),
    "list[timestamp]": st.lists(st.just(NOW), max_size=2),
    "json": st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ).filter(lambda one: not isinstance(one, str)),
}  # fmt: skip
NAMES = {f"m{number}": dtype for number, dtype in enumerate(DTYPES)}
FEATURES = {f"f{number}": dtype for number, dtype in enumerate(DTYPES)}


class Typed:
    """A project whose documents have metadata of every dtype, and bring a feature of every dtype."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        root = Path(mkdtemp())
        (root / "prompts").mkdir()
        policies = "".join(f"  title.{name}: {{on_missing: none}}\n" for name in FEATURES)
        body = "".join(f"{{{{ d.title.{name} | or_else('-') }}}} " for name in FEATURES)
        (root / "prompts" / "home.prompt.j2").write_text(
            f"---\nfeatures:\n{policies}entities: {{user: user}}\ndocuments:\n"
            "  docs: {retriever: sessions, order: recent, top_k: 20}\n"
            f"---\nx {{% for d in docs %}}{body}{{% endfor %}}"
        )
        (root / "llmfeatures.toml").write_text('[project]\nname = "typed"\nregistry = "features.py"\n')
        metadata: dict[str, Any] = {"title_id": "str", **NAMES}
        registry = Registry(
            [
                FeatureView("facts", TITLE, PushSource(), FEATURES),
                Retriever("sessions", USER, function=lambda _: self.found, metadata=metadata),
            ]
        )
        self.project = Project(find_config(root), registry, now=lambda: NOW)
        self.builder = self.project.builder()
        self.writer = ContextWriter(self.builder.plan("home"))
        self.schema = self._schema()

    def _schema(self) -> Any:
        document = create_app(self.project, log=RequestLog("off")).openapi()
        return jsonschema_rs.validator_for({**document, "$ref": "#/components/schemas/Context.home"})


@cache
def typed() -> Typed:
    """One for all examples."""
    return Typed()


VALUES = st.fixed_dictionaries(
    {name: st.none() | DTYPES[dtype] for name, dtype in NAMES.items()},
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"id": st.text(max_size=4), "text": st.text(max_size=6), "metadata": VALUES},
        optional={
            "valid_from": st.datetimes(timezones=st.just(UTC)),
            "valid_to": st.datetimes(timezones=st.just(UTC)),
            "version": st.text(max_size=3),
        },
    ),
    max_size=3,
)
ROWS = st.fixed_dictionaries({name: st.none() | DTYPES[dtype] for name, dtype in FEATURES.items()})


@settings(max_examples=25)
@given(documents=DOCUMENTS, row=ROWS)
def test_a_context_is_the_same_after_json_and_http_write_the_same(
    documents: list[dict[str, Any]], row: dict[str, Any]
) -> None:
    one = typed()
    one.project.push("facts", [{"title_id": "t", **row, "event_timestamp": NOW}])
    one.found = [{**each, "user_id": "u", "metadata": {**each["metadata"], "title_id": "t"}} for each in documents]
    made = one.builder.build_context("home", user_id="u")
    back = PromptContext.model_validate_json(made.model_dump_json())
    assert back == made
    assert back.model_dump_json() == made.model_dump_json()
    for before, after in zip(made.documents["docs"], back.documents["docs"], strict=True):
        assert list(map(type, before.metadata.values())) == list(map(type, after.metadata.values()))
        assert before.features == after.features
    sent = one.writer.json(made)
    assert json.loads(sent) == json.loads(made.model_dump_json())
    assert PromptContext.model_validate_json(sent) == made
    one.schema.validate(json.loads(sent))


KEYS = st.text(st.sampled_from("u:%_*'\"\\;|{}[]()|\u0000é \u2028a1"), min_size=1, max_size=5)


@settings(max_examples=60)
@given(asked=KEYS, owner=KEYS)
def test_no_hostile_key_gets_the_document_of_another(asked: str, owner: str) -> None:
    one = typed()
    one.found = [{"id": "d", "text": "x", "user_id": owner}]
    if asked == owner:
        assert len(one.builder.build_context("home", user_id=asked).documents["docs"]) == 1
        return
    with pytest.raises(EntityMismatchError):
        one.builder.build_context("home", user_id=asked)
    with pytest.raises(EntityMismatchError):
        one.builder.build_contexts("home", [{"user_id": owner}, {"user_id": asked}])


def test_several_join_keys_never_run_into_one_another(tmp_path: Path) -> None:
    seat = Entity("seat", join_keys={"tenant": "str", "number": "str"})

    def find(_: DocumentQuery) -> Any:
        return [{"id": "a", "text": "x", "tenant": "1:2", "number": "3"}]

    text = "---\nentities: {seat: seat}\ndocuments: {docs: {retriever: notes, order: recent}}\n---\nx{{ docs|length }}"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "home.prompt.j2").write_text(text)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "seats"\nregistry = "features.py"\n')
    project = Project(find_config(tmp_path), Registry([Retriever("notes", seat, function=find)]))
    assert project.builder().build_context("home", tenant="1:2", number="3").text == "x1"
    with pytest.raises(EntityMismatchError):
        project.builder().build_context("home", tenant="1", number="2:3")


# -- the explanation -------------------------------------------------------------------------------------------------


def sample(root: Path, *, fails: bool = False) -> Project:
    """A project whose prompt has two documents, each a day old or older."""

    def find(_: DocumentQuery) -> Any:
        if fails:
            raise OSError
        return [
            document("a", "SECRET one", score=0.9, valid_from="2026-05-06T23:00Z", metadata={"title_id": "t1"}),
            document("b", "SECRET two", score=0.25, valid_from="2026-05-01T20:00Z"),
            document("c", "SECRET one", score=0.2),
        ]

    body = "{% for d in docs %}{{ d.text }} {{ d.title.rating }}\n{% endfor %}"
    text = prompt(f"{ASK}, on_unavailable: none}}", body)
    return make_project(root, retriever(find, description="Past sessions"), prompts={"home": text})


def test_an_explanation_has_documents_and_no_text_of_them(tmp_path: Path) -> None:
    project = sample(tmp_path)
    project.materialize(["ratings", "taste"])
    builder = project.builder()
    made = builder.build_context("home", user_id="u", question="q")
    said = made.explain()
    assert "SECRET" not in said
    lines = [line.strip() for line in said.splitlines()]
    assert "documents docs: retriever sessions, found, tier exact, 2 of 3 kept, 1 double" in lines
    assert "question: input; in the search for docs" in lines
    assert "a: score 0.9, exact, 1d old" in lines
    assert "b: score 0.25, exact, 6d 3h old, title.rating missing" in lines
    (timed,) = (line for line in lines if line.startswith("timings: "))
    assert [one.split()[0] for one in timed.removeprefix("timings: ").split(", ")] == ["features", "docs", "docs.title"]
    explanation = explained(made)
    assert explanation.is_whole
    assert explain_json(explanation)["documents"]["docs"][0] == {
        "id": "a", "version": made.documents["docs"][0].version, "score": 0.9, "tier": "exact", "age": "1d",
    }  # fmt: skip
    html = made._repr_html_()
    assert "documents docs: retriever sessions" in html
    assert "<code>a</code></td><td><bdi>0.9</bdi>" in html
    again = PromptContext.model_validate_json(made.model_dump_json())
    assert explained(again).is_whole
    assert again.explain() == said


def test_an_explanation_says_what_went_wrong(tmp_path: Path) -> None:
    made = sample(tmp_path, fails=True).builder().build_context("home", user_id="u", question="q")
    assert "documents docs: retriever sessions, unavailable: the function of retriever 'sessions'" in made.explain()
    assert "degraded: the function of retriever 'sessions' raised OSError" in made._repr_html_().replace("&#x27;", "'")
    nobody = sample(tmp_path / "two").builder().build_context("home", user_id=None, question="q")
    assert "skipped: nobody is known" in nobody.explain()


# -- the command line ------------------------------------------------------------------------------------------------

FEATURES_PY = """
from llmfeatures import Entity, FeatureView, PushSource, Registry, Retriever

user = Entity("user", join_key="user_id")


def find(query):
    return [{"id": "a", "text": "found " + query.text, "score": 0.5, "user_id": query.keys["user_id"]}]


def away(query):
    raise OSError


registry = Registry([
    FeatureView("taste", user, PushSource(), {"genre": "str"}),
    Retriever("sessions", user, function=find, tier="exact", description="Past sessions"),
    Retriever("news", function=away),
])
"""
NEWS = "{retriever: news, order: recent, on_unavailable: none}"


def written_project(root: Path) -> Path:
    """A project with files only."""
    (root / "prompts").mkdir(parents=True)
    (root / "features.py").write_text(FEATURES_PY)
    (root / "llmfeatures.toml").write_text('[project]\nname = "files"\nregistry = "features.py"\n')
    text = prompt(f"{ASK}}}\n  news: {NEWS}", "{% for d in docs %}{{ d.text }}{% endfor %}{{ news|length }}")
    (root / "prompts" / "home.prompt.j2").write_text(text.replace("  title.rating: {default: 0.0}\n", ""))
    strict = "---\ndocuments: {news: {retriever: news, order: recent}}\n---\nx{{ news|length }}"
    (root / "prompts" / "strict.prompt.j2").write_text(strict)
    return root


def test_the_command_line_shows_documents_and_retrievers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmfeatures.cli.app import run as main

    root = str(written_project(tmp_path))

    def run(*arguments: str) -> tuple[str, str]:
        assert main([*arguments, "--project", root]) == 0
        return capsys.readouterr()

    out, err = run("context", "home", "user_id=u", "question=hi", "--explain")
    assert "«found hi»" in out
    assert "documents docs: retriever sessions, found, tier exact, 1 of 1 kept" in out
    assert "documents news unavailable: the function of retriever 'news' raised OSError" in err
    out, _ = run("list", "retrievers")
    assert [line.split()[:1] for line in out.splitlines()] == [["retriever"], ["sessions"], ["news"]]
    assert "function, exact" in out
    listed = json.loads(run("list", "retrievers", "--json")[0])
    assert [(one["name"], one["entity"], one["prompts"]) for one in listed] == [
        ("sessions", "user", ["home"]), ("news", None, ["home", "strict"]),
    ]  # fmt: skip
    assert "docs: sessions, news: news" in run("list", "prompts")[0]
    assert json.loads(run("list", "prompts", "--json")[0])[0]["documents"] == {"docs": "sessions", "news": "news"}


# -- the service -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(project: Project) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process."""
    app = create_app(project, log=RequestLog("off"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        yield client


PATH = "/v1/prompts/home/context"
BODY: dict[str, Any] = {"user_id": "u", "question": "q"}


def same(one: PromptContext, other: PromptContext) -> bool:
    """Whether two calls gave the same."""

    def plain(context: PromptContext) -> dict[str, Any]:
        made = context.model_dump(exclude={"request_id"})
        made["manifest"].pop("timings")
        return made

    return plain(one) == plain(other)


def test_the_service_answers_with_documents_and_counts_searches(tmp_path: Path) -> None:
    project = sample(tmp_path)
    expected = project.builder().build_context("home", **BODY)

    async def run() -> str:
        async with asking(project) as client:
            answer = await client.post(PATH, json=BODY)
            assert answer.status_code == 200, answer.text
            assert same(PromptContext.model_validate_json(answer.content), expected)
            many = await client.post(f"{PATH}s", json={"rows": [BODY, {**BODY, "user_id": None}]})
            contexts = [PromptContext.model_validate(one) for one in many.json()["contexts"]]
            assert same(contexts[0], expected)
            assert contexts[1].manifest.retrievals["docs"].status == "skipped"
            schema = {**(await client.get("/openapi.json")).json(), "$ref": "#/components/schemas/Context.home"}
            jsonschema_rs.validate(schema, answer.json())
            listing = (await client.get("/v1/registry")).json()
            assert [one["name"] for one in listing["retrievers"]] == ["sessions"]
            return (await client.get("/metrics")).text

    metrics = asyncio.run(run())
    assert 'llmfeatures_retrievals_total{prompt="home",retriever="sessions",status="found"} 2.0' in metrics
    assert 'llmfeatures_retrievals_total{prompt="home",retriever="sessions",status="skipped"} 1.0' in metrics
    assert 'llmfeatures_retrieval_seconds_count{prompt="home",retriever="sessions"} 2.0' in metrics


def test_the_service_says_that_a_retriever_is_away(tmp_path: Path) -> None:
    def find(_: DocumentQuery) -> Any:
        raise OSError

    project = make_project(tmp_path, retriever(find), prompts={"home": prompt(f"{ASK}}}")})

    async def run() -> str:
        async with asking(project) as client:
            answer = await client.post(PATH, json=BODY)
            assert answer.status_code == 503
            error = answer.json()["error"]
            assert (error["code"], error["retriever"]) == ("documents_unavailable", "sessions")
            assert answer.headers["retry-after"] == "1"
            return (await client.get("/metrics")).text

    assert 'llmfeatures_retrievals_total{prompt="home",retriever="sessions",status="unavailable"} 1.0' in asyncio.run(
        run()
    )


def test_a_search_holds_up_no_other_request(tmp_path: Path) -> None:
    end = threading.Event()

    def find(_: DocumentQuery) -> Any:
        assert end.wait(10)
        return [document("a")]

    text = prompt(f"{ASK}}}")
    plain = "---\nfeatures: {genre: {default: nothing}}\n---\n{{ genre }}"
    config = '\n[retrieval]\ntimeout = "10s"\n'
    project = make_project(tmp_path, retriever(find), prompts={"home": text, "plain": plain}, config=config)

    async def run() -> list[int]:
        async with asking(project) as client:
            waiting = asyncio.create_task(client.post(PATH, json=BODY))
            await asyncio.sleep(0.02)
            first = await client.post("/v1/prompts/plain/context", json={"user_id": "u"})
            end.set()
            return [first.status_code, (await waiting).status_code]

    assert asyncio.run(run()) == [200, 200]


@pytest.mark.parametrize("policy", ["error", "none"])
def test_readiness_knows_retrievers_that_were_never_filled(tmp_path: Path, policy: str) -> None:
    (tmp_path / "docs.jsonl").write_text("")
    one = Retriever("sessions", USER, DocumentSource("docs.jsonl", valid_from=None))
    options = f"{{retriever: sessions, order: recent, on_unavailable: {policy}}}"
    text = f"---\nentities: {{user: user}}\ndocuments: {{docs: {options}}}\n---\nx{{{{ docs|length }}}}"
    project = make_project(tmp_path, one, prompts={"home": text})

    async def run() -> Any:
        async with asking(project) as client:
            return (await client.get("/health/ready")).json()

    answer = asyncio.run(run())
    found = answer["reasons" if policy == "error" else "warnings"]
    assert answer["status"] == ("not_ready" if policy == "error" else "ready")
    assert [one["code"] for one in found] == ["retriever"]
    assert "llmfeatures materialize sessions" in found[0]["message"]


@pytest.mark.heavy
def test_clients_give_the_same_context(tmp_path: Path) -> None:
    root = written_project(tmp_path)
    builder = ContextBuilder.from_project(root)
    expected = builder.build_context("home", as_of=None, **BODY)

    async def run(url: str) -> PromptContext:
        async with AsyncClient(url) as client:
            return await client.build_context("home", **BODY)

    with served(root) as running:
        with Client(running.url) as client:
            one = client.build_context("home", **BODY)
            with pytest.raises(DocumentsUnavailableError) as raised:
                client.build_context("strict")
            assert raised.value.retriever == "news"
        other = asyncio.run(run(running.url))
    for found in (one, other):
        assert found.documents == expected.documents
        assert found.messages == expected.messages
        assert found.manifest.retrievals == expected.manifest.retrievals


def test_a_trace_has_a_span_for_each_leg_and_no_query(tmp_path: Path) -> None:
    project = sample(tmp_path)
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def run() -> None:
        app = create_app(project, log=RequestLog("off"))
        async with app.router.lifespan_context(app):
            app.service.desk.tracer = provider.get_tracer("test")  # type: ignore[attr-defined]
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                assert (await client.post(PATH, json={"user_id": "u", "question": "PRIVATE"})).status_code == 200

    asyncio.run(run())
    found = {one.name: one for one in spans.get_finished_spans()}
    build = found["build_context home"]
    legs = [found[name] for name in ("features features", "search docs", "features docs.title")]
    assert [one.parent.span_id for one in legs if one.parent] == [build.context.span_id] * 3
    assert found["search docs"].attributes == {"llmfeatures.leg": "docs", "llmfeatures.retriever": "sessions"}
    assert all(one.start_time <= one.end_time for one in legs)
    assert legs[2].start_time >= legs[0].start_time
    assert "PRIVATE" not in "".join(one.to_json() for one in found.values())


# -- releases --------------------------------------------------------------------------------------------------------


def embed(texts: list[str]) -> Any:
    """Vectors of one dimension."""
    return [[1.0] for _ in texts]


def other_embed(texts: list[str]) -> Any:
    """The same, with other code."""
    return [[float(len(one) > 0)] for one in texts]


def find_one(query: DocumentQuery) -> Any:
    """A document for anybody."""
    return [document("a", user=query.keys["user_id"])]


def find_two(query: DocumentQuery) -> Any:
    """Two."""
    return [document(name, user=query.keys["user_id"]) for name in "ab"]


def every_kind(find: Any = find_one, function: Any = embed) -> Registry:
    """Retrievers of every kind."""
    source = DocumentSource(
        "docs/*.parquet", id="doc", text="body", valid_from="since", valid_to="until", columns={"uid": "user_id"}
    )
    return Registry(
        [
            TITLE,
            Retriever("all", source=DocumentSource("docs.jsonl", valid_to=None), embedder=OnnxEmbedder(), cadence="1d",
                      tags={"team": "x"}, owner="o"),
            Retriever("own", USER, source, embedder=OnnxEmbedder("model", model="m", dimensions=3, max_tokens=9),
                      metadata={"title_id": "str", "at": "timestamp", "kind": "enum[b,a]"}, description="d"),
            Retriever("asked", source=DocumentSource("x.parquet", valid_to=None),
                      embedder=OpenAIEmbedder("e", dimensions=4, base_url="http://x/v1", batch=7)),
            Retriever("made", source="x.parquet", embedder=FunctionEmbedder(function, model="f", dimensions=1)),
            Retriever("sessions", USER, function=find, tier="filtered", metadata={"title_id": "str"}),
        ]
    )  # fmt: skip


def test_retrievers_of_a_release_are_those_that_were_kept() -> None:
    registry = every_kind()
    kept = json.loads(json.dumps(registry_json(registry), sort_keys=True))
    rebuilt = rebuilt_registry(kept, registry)
    assert rebuilt.registry == registry
    assert [*rebuilt.registry.retriever("own").metadata] == ["title_id", "at", "kind"]
    assert rebuilt.absent == {}
    changed = rebuilt_registry(kept, every_kind(find_two, other_embed))
    assert changed.absent == {
        "made": "of its embedder, its function has other code now",
        "sessions": "its function has other code now",
    }
    gone = rebuilt_registry(kept, Registry([]))
    assert set(gone.absent) == {"made", "sessions"}
    assert [one.name for one in gone.registry.retrievers] == ["all", "own", "asked"]


def golden_release() -> Release:
    """A release with retrievers that no version of this library changes."""
    draft = Release(
        id="",
        library="0.1.0",
        formats={"header": 1, "release": 1, "renderer": 1},
        registry=registry_json(
            Registry([one for one in every_kind().retrievers if one.name in ("all", "own", "asked")])
        ),
        prompts={
            "home": ReleasedPrompt(
                name="home", version="ab" * 32, source="{{ x }}\n", features=("segment",), retrievers=("all", "own")
            )
        },
        partials={},
        created="2026-05-07T22:00:00.000000Z",
    )
    return replace(draft, id=release_id(draft.content()))


def test_the_golden_bytes_of_a_release_with_retrievers() -> None:
    golden = (Path(__file__).parent / "golden" / "release-retrievers.json").read_bytes()
    release = golden_release()
    assert written(release) == golden
    assert read(golden, release.id) == release
    rebuilt = rebuilt_registry(read(golden, release.id).registry, Registry([]))
    assert [one.name for one in rebuilt.registry.retrievers] == ["all", "own", "asked"]
    assert registry_json(rebuilt.registry) == release.registry


def test_a_registry_without_retrievers_is_kept_as_before() -> None:
    assert list(registry_json(Registry([TITLE]))) == ["entities", "views", "on_demand"]


def test_a_release_renders_with_its_retriever_or_says_why_not(tmp_path: Path) -> None:
    text = prompt(f"{ASK}}}")
    project = make_project(tmp_path, retriever(find_one), prompts={"home": text})
    release = made_release(project.registry, _texts(project), created=NOW)
    assert release.prompts["home"].retrievers == ("sessions",)
    assert read(written(release), release.id) == release
    same_code = project.at_release(release).builder().build_context("home", **BODY)
    assert same_code.text == project.builder().build_context("home", **BODY).text
    other = Project(project.config, Registry([*project.registry.views, retriever(find_two)]), now=lambda: NOW)
    with pytest.raises(ReleaseError, match=r"needs retriever sessions as it was then, and its function has other code"):
        other.at_release(release).builder().build_context("home", **BODY)
    then = made_release(other.registry, _texts(project), created=NOW)
    assert list(changes(release, then).registry) == ["retriever sessions: its function has other code"]
    assert release.prompts["home"].version != then.prompts["home"].version


def test_a_partial_of_a_query_is_part_of_the_version_and_of_a_release(tmp_path: Path) -> None:
    from llmfeatures.prompts.texts import PromptTexts

    text = prompt("{retriever: sessions, query: \"{% include '_shared/ask.j2' %}\"}")
    project = make_project(tmp_path, retriever(find_one), prompts={"home": text})
    partials = [{"_shared/ask.j2": one} for one in ("{{ question }}", "About {{ question }}")]
    releases = [
        made_release(project.registry, PromptTexts({"home": text}, one, where=""), created=NOW) for one in partials
    ]
    assert [one.partials for one in releases] == partials
    assert all(one.prompts["home"].partials == ("_shared/ask.j2",) for one in releases)
    assert len({one.prompts["home"].version for one in releases}) == 2
    assert project.at_release(releases[0]).builder().build_context("home", **BODY).documents["docs"]


def _texts(project: Project) -> Any:
    from llmfeatures.prompts.texts import PromptTexts

    return PromptTexts({"home": (project.config.prompts / "home.prompt.j2").read_text()}, {}, where="")


def test_what_changed_of_retrievers_is_said() -> None:
    from llmfeatures.releases.changes import _registry

    before = registry_json(every_kind())
    assert list(_registry(before, before)) == []
    after = registry_json(every_kind(find_two, other_embed))
    was, now = (f"{{model: f, dimensions: 1, function: {one['retrievers'][3]['embedder']['function']}}}"
                for one in (before, after))  # fmt: skip
    assert [one for one in _registry(before, after) if "made" in one or "sessions" in one] == [
        f"retriever made: embedder {was} → {now}",
        "retriever sessions: its function has other code",
    ]
    assert "retriever own removed" in list(_registry(before, registry_json(Registry([TITLE]))))


def test_moments_of_documents_are_written_as_all_others(tmp_path: Path) -> None:
    made = sample(tmp_path).builder().build_context("home", **BODY)
    dumped = made.model_dump(mode="json")["documents"]["docs"][0]
    assert dumped["valid_from"] == iso(datetime(2026, 5, 6, 23, tzinfo=UTC))
