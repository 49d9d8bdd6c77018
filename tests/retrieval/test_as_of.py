"""Prompts with documents as of a moment, read by eye: what each route gives, refuses and says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import Project, PromptContext
from llmfeatures.cli.app import run
from llmfeatures.errors import (
    PromptError,
    RequestError,
    RetrieverError,
    RetrieverUnavailableError,
    SourceError,
)
from llmfeatures.export import partial as partials
from llmfeatures.offline import spine as spines
from tests.diff.conftest import commit, git
from tests.projects import MOMENT, NOW, at, make_project, segment, watched, write_rows

PROMPT = """---
features:
  segment: {default: drama}
  title.stars: {default: 0}
inputs:
  question: {type: str, default: night}
documents:
  notes: {retriever: notes, query: "{{ segment }} {{ question }}", top_k: 2}
---
{{ segment }}: {% for d in notes %}[{{ d.id }} {{ d.score }} {{ d.title.stars }} {{ d.text }}]{% endfor %}
"""
LIVE = """---
documents:
  now: {retriever: now, query: "x"}
---
{% for d in now %}{{ d.text }}{% endfor %}
"""
BROKEN = """---
documents:
  notes: {retriever: broken, query: "x", on_unavailable: none}
---
Hello {% for d in notes %}{{ d.text }}{% endfor %}
"""
PLAIN = "---\nfeatures: {segment: {default: you}}\n---\nHello {{ segment }}"
EXTRA = """  - {name: ratings, entity: title, features: {stars: int},
     source: {path: data/stars.parquet, created_timestamp: created_timestamp}}
retrievers:
  - name: notes
    entity: user
    source: {path: data/notes.jsonl, valid_to: valid_to}
    metadata: {title_id: str}
    embedder: {function: "tests.retrieval.vectors:embed", model: counted, dimensions: 6}
  - {name: now, entity: user, function: "tests.retrieval.functions:newest_note", tier: live}
  - {name: broken, entity: user, function: "tests.retrieval.functions:broken", tier: exact}
"""
STARS = {"title_id": pa.string(), "stars": pa.int64(), "event_timestamp": MOMENT, "created_timestamp": MOMENT}
NOTES = [
    ("u1", "n1", "drama night", at(day=2), None, "t1"),
    ("u1", "n1", "drama rain", at(day=4), None, "t1"),
    ("u1", "n2", "crime night", at(day=3), at(day=5), "t2"),
    ("u2", "n1", "comedy", at(day=2), None, None),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is materialized; nothing may change it."""
    root = tmp_path_factory.mktemp("documents") / "project"
    make_project(
        root,
        segments=[segment("u1", "crime", at(day=5)), segment("u2", "comedy", at(day=1), at(day=3))],
        counts=[watched("u1", 1, at(day=1)), watched("u2", 1, at(day=1))],
        prompts={"home": PROMPT, "live": LIVE, "broken": BROKEN, "plain": PLAIN},
        extra=EXTRA,
    )
    features = root / "features.yaml"
    features.write_text(
        features.read_text().replace("join_key: user_id}]", "join_key: user_id}, {name: title, join_key: title_id}]")
    )
    stars = [("t1", 3, at(day=1), at(day=1)), ("t1", 5, at(day=3), at(day=6)), ("t2", 4, at(day=2), None)]
    write_rows(
        root / "data" / "stars.parquet",
        [dict(zip(STARS, row, strict=True)) for row in stars],
        STARS,
    )
    write_notes(root, NOTES)
    with closing(Project.load(root, now=lambda: NOW)) as project:
        project.materialize()
    return root


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    return Path(shutil.copytree(root, tmp_path / "own"))


def write_notes(root: Path, notes: list[Any]) -> None:
    names = ("user_id", "id", "text", "valid_from", "valid_to", "title_id")
    lines = [json.dumps(dict(zip(names, row, strict=True)), default=datetime.isoformat) for row in notes]
    (root / "data" / "notes.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def project(root: Path) -> Iterator[Project]:
    with closing(Project.load(root, now=lambda: NOW)) as project:
        yield project


def spine(*rows: tuple[str | None, datetime | None], **columns: list[Any]) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array([user for user, _ in rows], pa.string()),
            "event_timestamp": pa.array([when for _, when in rows], MOMENT),
            **columns,
        }
    )


def unfenced(text: str) -> str:
    """The text without its fences, on one line."""
    return re.sub(r"\s*</?data-[0-9a-f]{12}>\s*", " ", text)


ROWS = [
    ("u1", at(day=1)),
    ("u1", at(day=2)),
    ("u1", at(day=4)),
    ("u1", at(day=6)),
    ("u2", at(day=6)),
    (None, at(day=6)),
]
EXPECTED = [
    "drama:",
    "drama: [n1 1.0 3 drama night ]",
    "drama: [n1 0.5 3 drama rain ][n2 0.5 4 crime night ]",
    "crime: [n1 0.0 5 drama rain ]",
    "comedy: [n1 0.707107 0 comedy ]",
    "drama:",
]


def test_each_row_has_the_documents_and_their_features_of_its_moment(project: Project) -> None:
    made = project.history("home", spine(*ROWS))
    rows = made.read_all().to_pylist()
    assert [row["error"] for row in rows] == [None] * len(ROWS)
    assert [unfenced(row["messages"][0]["content"]) for row in rows] == EXPECTED
    listed = [[(one["id"], one["score"], one["tier"]) for one in row["documents"]] for row in rows]
    assert listed[2] == [("n1", 0.5, "exact"), ("n2", 0.5, "exact")]
    assert (
        rows[2]["documents"][0]["version"] == rows[3]["documents"][0]["version"] != rows[1]["documents"][0]["version"]
    )
    assert made.summary.documents == {"notes": {"exact": 5, "without": 2}}
    assert type(made.summary).of_json(json.loads(json.dumps(made.summary.as_json()))) == made.summary


def test_a_context_as_of_a_moment_is_the_row_of_history(project: Project) -> None:
    rows = project.history("home", spine(*ROWS)).read_all().to_pylist()
    builder = project.builder()
    for (user, when), row in zip(ROWS, rows, strict=True):
        assert when is not None
        ctx = builder.build_context("home", user_id=user, as_of=when)
        assert (ctx.prompt_id, ctx.messages) == (row["prompt_id"], row["messages"])
        assert [one.id for one in ctx.documents["notes"]] == [one["id"] for one in row["documents"]]
        assert ctx.manifest.retrievals["notes"].tier == (None if user is None else "exact")
        assert ctx.manifest.source == "offline"
        assert PromptContext.model_validate_json(ctx.model_dump_json()) == ctx
    assert asyncio.run(_async(project, "u1", at(day=6)))[0] == rows[3]["prompt_id"]
    both = builder.build_contexts("home", [{"user_id": "u1"}, {"user_id": "u2"}], as_of=at(day=6))
    assert [one.prompt_id for one in both] == [rows[3]["prompt_id"], rows[4]["prompt_id"]]


async def _async(project: Project, user: str | None, when: datetime) -> Any:
    builder = project.async_builder()
    try:
        ctx = await builder.build_context("home", user_id=user, as_of=when)
        return ctx.prompt_id, ctx.documents
    finally:
        await builder.aclose()


def test_brought_features_go_by_the_clock_of_the_rows(project: Project) -> None:
    """The newer stars of t1 happened on the third and arrived on the sixth."""
    asked = spine(("u1", at(day=4)))
    texts = {
        clock: unfenced(project.history("home", asked, clock=clock).read_all().to_pylist()[0]["messages"][0]["content"])
        for clock in ("known", "event")
    }
    assert texts["known"] == "drama: [n1 0.5 3 drama rain ][n2 0.5 4 crime night ]"
    assert texts["event"] == "drama: [n1 0.5 5 drama rain ][n2 0.5 4 crime night ]"


def test_all_rows_of_a_batch_are_searched_for_at_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    store = project.retrieving.store(project.registry.retriever("notes"))
    searches: list[int] = []
    inner = store.search

    def search(queries: Any, **options: Any) -> Any:
        searches.append(len(queries))
        return inner(queries, **options)

    monkeypatch.setattr(store, "search", search)
    moments = [at(day=2) + timedelta(minutes=one) for one in range(100)]
    project.history("home", spine(*[("u1", one) for one in moments], *[("u1", one) for one in moments])).read_all()
    assert searches == [100], "two rows that ask the same ask once"


# -- tiers and failures ------------------------------------------------------------------------------------------------

REFUSED = "retriever 'now' is live"


def test_what_is_there_now_is_refused_in_history(project: Project) -> None:
    builder, asked = project.builder(), spine(("u1", at(day=3)))
    assert builder.build_context("live", user_id="u1").manifest.retrievals["now"].tier == "live"
    with pytest.raises(RequestError, match=REFUSED):
        project.history("live", asked).read_all()
    with pytest.raises(RequestError, match='say tier="exact" or tier="filtered" in the registry'):
        project.history("live", asked).read_all()
    with pytest.raises(RequestError, match=REFUSED):
        builder.build_context("live", user_id="u1", as_of=at(day=3))
    with pytest.raises(RequestError, match=REFUSED):
        builder.build_contexts("live", [{"user_id": "u1"}], as_of=at(day=3))
    with pytest.raises(RequestError, match=REFUSED):
        project.diff("live", str(project.config.prompts / "live.prompt.j2"), asked)


def test_what_is_there_now_is_given_when_asked_for_and_says_so(project: Project) -> None:
    made = project.history("live", spine(("u1", at(day=3))), live_documents=True)
    (row,) = made.read_all().to_pylist()
    assert [one["tier"] for one in row["documents"]] == ["live"]
    assert made.summary.documents == {"now": {"live": 1}}
    ctx = project.builder().build_context("live", user_id="u1", as_of=at(day=3), _live_documents=True)
    assert ctx.prompt_id == row["prompt_id"]
    assert ctx.manifest.retrievals["now"].tier == "live"


@pytest.mark.parametrize("route", ["history", "as_of", "export"])
def test_a_retriever_that_is_out_of_order_fails_history_whatever_the_policy(
    project: Project, tmp_path: Path, route: str
) -> None:
    assert project.builder().build_context("broken", user_id="u1").manifest.degraded
    made = project.history("broken", spine(("u1", at(day=3))))
    routes: dict[str, Callable[[], object]] = {
        "history": made.read_all,
        "as_of": lambda: project.builder().build_context("broken", user_id="u1", as_of=at(day=3)),
        "export": lambda: made.write(tmp_path / "out.parquet"),
    }
    with pytest.raises(RetrieverError, match="'broken'") as raised:
        routes[route]()
    assert "secret" not in str(raised.value)
    assert list(tmp_path.glob("*.parquet")) == []


def test_an_index_that_was_never_filled(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(own / ".llmfeatures" / "documents")
    with (
        closing(Project.load(own, now=lambda: NOW)) as project,
        pytest.raises(RetrieverUnavailableError, match="llmfeatures materialize notes"),
    ):
        project.history("home", spine(("u1", at(day=3)))).read_all()
    pq.write_table(spine(("u1", at(day=3))), own / "spine.parquet")
    command = ["history", "home", "--spine", str(own / "spine.parquet"), "--out", str(own / "out.jsonl")]
    assert run([*command, "--project", str(own)]) == 1
    said = capsys.readouterr().err
    assert "llmfeatures materialize notes" in said
    assert "Traceback" not in said
    assert not (own / "out.jsonl").exists()


@pytest.mark.heavy
def test_an_invalid_feature_of_a_document_spoils_its_row_alone(own: Path) -> None:
    features = own / "features.yaml"
    features.write_text(
        features.read_text().replace("{stars: int}", '{stars: "enum[3,4]"}').replace("{default: 0}", "{default: none}")
    )
    prompt = own / "prompts" / "home.prompt.j2"
    prompt.write_text(PROMPT.replace("title.stars: {default: 0}", "title.stars: {default: few}"))
    stars = [("t1", "3", at(day=1), None), ("t1", "many", at(day=5), None), ("t2", "4", at(day=2), None)]
    schema = {**STARS, "stars": pa.string()}
    write_rows(own / "data" / "stars.parquet", [dict(zip(schema, row, strict=True)) for row in stars], schema)
    with closing(Project.load(own, now=lambda: NOW)) as project:
        rows = project.history("home", spine(*ROWS)).read_all().to_pylist()
        assert [row["error"] is None for row in rows] == [True, True, True, False, True, True]
        assert "stars" in rows[3]["error"]
        assert (rows[3]["messages"], rows[3]["documents"]) == (None, [])
        with pytest.raises(SourceError, match="stars"):
            project.builder().build_context("home", user_id="u1", as_of=at(day=6))


# -- exports, pairs, releases, diffs -----------------------------------------------------------------------------------


def test_a_row_without_a_feature_asks_for_documents_without_it(project: Project) -> None:
    made = project.history("home", spine(("u1", at(day=6))), without="segment")
    first, second = made.read_all().to_pylist()
    assert [row["documents"][0]["score"] for row in (first, second)] == [0.0, 0.5]
    assert second["metadata"] == {"pair": first["id"], "without": "segment"}
    assert made.summary.documents == {"notes": {"exact": 1}}


def test_formats_say_which_documents_a_prompt_has(project: Project, tmp_path: Path) -> None:
    asked = spine(("u1", at(day=4)), ("u1", at(day=1)))
    page = tmp_path / "page.html"
    for prompt, known in (("home", True), ("plain", False)):
        for form in ("inspect", "langfuse", "promptfoo", "mlflow") if known else ("inspect",):
            report = page if form == "inspect" else None
            project.history(prompt, asked).write(tmp_path / "out.jsonl", form, report=report)
            lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
            about = [json.loads(one["tags"]["about"]) if form == "mlflow" else one["metadata"] for one in lines]
            assert [one.get("documents") is not None for one in about] == [known, known]
            if known:
                assert [(one["id"], one["tier"]) for one in about[0]["documents"]] == [("n1", "exact"), ("n2", "exact")]
                assert about[1]["documents"] == []
        project.history(prompt, asked).write(tmp_path / "out.parquet", "hf")
        table = pq.read_table(tmp_path / "out.parquet")
        assert ("documents" in table.column_names) == known
        assert ("<h2>Documents</h2>" in page.read_text()) == known
    project.history("home", asked, without="segment").write(tmp_path / "out.parquet", report=page)
    assert "notes from retriever notes" in page.read_text()
    assert "drama rain" in page.read_text()


def test_an_interrupted_export_goes_on_unless_the_documents_changed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spines, "BATCH_ROWS", 7)
    inner = partials.Partial._reach
    moments = [("u1", at(day=2) + timedelta(hours=2 * one)) for one in range(0, 57, 3)]
    pq.write_table(spine(*moments), own / "spine.parquet")

    def interrupted(project: Project) -> None:
        def reach(self: Any, writings: Any, done: int, progress: Any) -> None:
            inner(self, writings, done, progress)
            if done >= 7:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(partials.Partial, "_reach", reach)
            with pytest.raises(KeyboardInterrupt):
                project.history("home", own / "spine.parquet").write(own / "out.parquet")

    def finished(project: Project) -> tuple[int, list[str]]:
        notes: list[str] = []
        done = project.history("home", own / "spine.parquet").write(own / "out.parquet", note=notes.append)
        assert done.rows == 19
        assert sum(done.documents["notes"].values()) >= 19
        return done.resumed, notes

    with closing(Project.load(own, now=lambda: NOW)) as project:
        interrupted(project)
        project.materialize()  # nothing changed
        assert finished(project)[0] == 7
        written = (own / "out.parquet").read_bytes()
        whole = project.history("home", own / "spine.parquet")
        whole.write(own / "whole.parquet")
        assert (own / "whole.parquet").read_bytes() == written
        interrupted(project)
        write_notes(own, [*NOTES, ("u1", "n9", "drama night", at(day=3), None, "t1")])
        project.materialize()
        resumed, notes = finished(project)
        assert resumed == 0
        assert notes == ["beginning anew, and not where an interrupted run left off: documents changed"]
        assert (own / "out.parquet").read_bytes() != written


def test_an_export_of_what_a_function_finds_begins_anew(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Project.load(own, now=lambda: NOW)) as project:
        pq.write_table(spine(("u1", at(day=2))), own / "spine.parquet")
        made = project.history("live", own / "spine.parquet", live_documents=True)
        assert made._made_of({}) is None


@pytest.mark.heavy
def test_each_row_has_the_documents_of_the_release_of_its_time(own: Path) -> None:
    def applied(when: datetime, text: str) -> None:
        (own / "prompts" / "home.prompt.j2").write_text(text)
        with closing(Project.load(own, now=lambda: when)) as project:
            project.apply()

    applied(at(day=2), "---\nfeatures: {segment: {default: x}}\n---\nplain {{ segment }}")
    applied(at(day=3), PROMPT)
    applied(at(day=5), PROMPT.replace("top_k: 2", "top_k: 1").replace("{{ segment }}:", "one"))
    with closing(Project.load(own, now=lambda: NOW)) as project:
        asked = spine(("u1", at(day=2)), ("u1", at(day=4)), ("u1", at(day=6)), question=["night"] * 3)
        rows = project.history("home", asked, release="then").read_all().to_pylist()
        assert [row["error"] for row in rows] == [None] * 3
        assert [len(row["documents"]) for row in rows] == [0, 2, 1]
        assert unfenced(rows[1]["messages"][0]["content"]) == EXPECTED[2]


def test_another_query_and_top_k_show_in_a_diff(own: Path) -> None:
    asked = spine(*ROWS)
    older = own / "older.prompt.j2"
    with closing(Project.load(own, now=lambda: NOW)) as project:
        older.write_text(PROMPT)
        assert project.diff("home", str(older), asked).counts.changed == 0
        older.write_text(PROMPT.replace("top_k: 2", "top_k: 1"))
        assert project.diff("home", str(older), asked).counts.changed == 1
        older.write_text(PROMPT.replace("{{ segment }} {{ question }}", "night {{ question }}"))
        assert project.diff("home", str(older), asked).counts.changed == 3
        older.write_text("Hello")
        assert project.diff("home", str(older), asked).counts.changed == len(ROWS)
        (own / "prompts" / "home.prompt.j2").write_text("Hello")
        older.write_text(PROMPT)
    with closing(Project.load(own, now=lambda: NOW)) as project:
        assert project.diff("home", str(older), asked).counts.changed == len(ROWS)


@pytest.mark.heavy
def test_a_check_against_a_revision_counts_prompts_with_documents(own: Path) -> None:
    git(own, "init", "-q")
    (own / ".gitignore").write_text(".llmfeatures\n")
    commit(own)
    (own / "prompts" / "home.prompt.j2").write_text(PROMPT.replace("top_k: 2", "top_k: 1"))
    with closing(Project.load(own, now=lambda: NOW)) as project:
        found = {one.prompt: one for one in project.check_against("git:HEAD").prompts}
    assert found["home"].problem is None
    assert 0 < found["home"].rows.changed < found["home"].rows.rows


# -- timelines ---------------------------------------------------------------------------------------------------------


def test_a_timeline_shows_documents_that_come_and_go(project: Project) -> None:
    made = project.timeline("home", user_id="u1", since=at(day=1), until=NOW)
    assert [(one.at, unfenced(one.text)) for one in reversed(made.entries)] == [
        (at(day=1), "drama:"),
        (at(day=2), "drama: [n1 1.0 3 drama night ]"),
        (at(day=3), "drama: [n1 1.0 3 drama night ][n2 0.5 4 crime night ]"),
        (at(day=4), "drama: [n1 0.5 3 drama rain ][n2 0.5 4 crime night ]"),
        (at(day=5), "crime: [n1 0.0 3 drama rain ]"),
        (at(day=6), "crime: [n1 0.0 5 drama rain ]"),
    ]
    assert [[(one.id, one.what) for one in entry.documents_changed] for entry in reversed(made.entries)] == [
        [], [("n1", "came")], [("n2", "came")], [("n1", "changed")], [("n2", "went")], [],
    ]  # fmt: skip
    assert "document <code>n2</code> is gone" in made._repr_html_()
    assert [one["id"] for one in made[2].documents] == ["n1", "n2"]
    assert json.loads(json.dumps(made.as_json()))["entries"][1]["documents_changed"] == [{"id": "n2", "what": "went"}]


def test_a_timeline_needs_documents_that_know_when_they_changed(project: Project) -> None:
    for name in ("now", "broken"):
        with pytest.raises(RequestError, match=f"retriever '{name}'"):
            project.timeline("live" if name == "now" else "broken", user_id="u1")


@pytest.mark.parametrize("asked", ['query: "{{ as_of }}"', 'query: x, filter: {day: "{{ as_of }}"}'])
def test_documents_that_are_asked_for_by_as_of_have_no_timeline(own: Path, asked: str) -> None:
    features = own / "features.yaml"
    features.write_text(features.read_text().replace("{title_id: str}", "{title_id: str, day: timestamp}"))
    text = f"---\ndocuments:\n  notes: {{retriever: notes, {asked}}}\n---\n{{{{ notes | length }}}}"
    (own / "prompts" / "dated.prompt.j2").write_text(text)
    with (
        closing(Project.load(own, now=lambda: NOW)) as project,
        pytest.raises(PromptError, match="documents 'notes' are asked for by as_of"),
    ):
        project.timeline("dated", user_id="u1")


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    where = ["--project", str(root)]
    drawn = ["--users", "2", "--since", "3d", "--until", "2026-05-07T12:00Z"]
    assert run(["history", "home", *drawn, "--out", str(out), *where]) == 0
    said = capsys.readouterr().err
    assert "notes: " in said
    assert "(exact)" in said
    rows = pq.read_table(out).to_pylist()
    assert any(row["documents"] for row in rows)
    assert run(["history", "live", *drawn, "--out", str(tmp_path / "live.jsonl"), *where]) == 2
    said = capsys.readouterr().err
    assert REFUSED in said
    assert "--live-documents" in said
    assert run(["history", "live", *drawn, "--out", str(tmp_path / "live.jsonl"), "--live-documents", *where]) == 0
    assert "(live)" in capsys.readouterr().err
    one = ["context", "live", "user_id=u1", "--as-of", "2026-05-03T00:00Z", *where]
    assert run(one) == 2
    assert REFUSED in capsys.readouterr().err
    assert run([*one, "--live-documents"]) == 0
    assert "what is there now" in capsys.readouterr().out
    assert (
        run(["context", "home", "user_id=u1", "--timeline", "--since", "7d", "--until", "2026-05-07T12:00Z", *where])
        == 0
    )
    assert "drama night" in capsys.readouterr().out
