"""Indexing: what is in the index afterwards is what the source says, however the run went."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import DocumentSource, Entity, FunctionEmbedder, Project, Registry, Retriever
from llmfeatures.clock import iso, microseconds
from llmfeatures.config import find_config
from llmfeatures.errors import (
    DocumentsUnavailableError,
    ExpectationError,
    RequestError,
    RetrieverError,
    RetrieverUnavailableError,
    SourceError,
    StoreReadOnlyError,
    UnknownNameError,
)
from llmfeatures.materialize import MaterializeReport
from llmfeatures.ports import DatedDocuments, DocumentQuery, DocumentRecord, DocumentStore, index_meta
from llmfeatures.retrieval.embedded import EmbeddedStore
from tests.projects import NOW, at, make_project, segment

USER = Entity("user", join_key="user_id")
CODE = """
def letters(texts):
    return [[float(text.count(letter)) + 0.001 for letter in "abcdefgh"] for text in texts]
"""


def letters(texts: Sequence[str]) -> list[list[float]]:
    """How often each of eight letters is in a text."""
    return [[float(text.count(letter)) + 0.001 for letter in "abcdefgh"] for text in texts]


LETTERS = FunctionEmbedder(letters, model="letters", dimensions=8)


def notes(**options: Any) -> Retriever:
    return Retriever(
        "notes", USER, "data/notes.jsonl", **{"embedder": LETTERS, "metadata": {"stars": "int"}, **options}
    )


def row(user: str, name: str, text: str, hour: int = 1, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "id": name, "text": text, "valid_from": iso(at(hour)), **fields}


ROWS = [
    row(f"u{number % 5}", f"d{number}", f"text {'abc'[number % 3] * (number % 7)} {number}") for number in range(40)
]


def write(root: Path, rows: Sequence[Mapping[str, Any]], name: str = "notes") -> None:
    path = root / "data" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def open_project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Opens the project of a folder with these retrievers."""
    opened: list[Project] = []

    def open_it(*retrievers: Retriever, root: Path = tmp_path, toml: str = "") -> Project:
        (root / "llmfeatures.toml").write_text(f'[project]\nname = "t"\nregistry = "none.py"\n{toml}')
        project = Project(find_config(root, {}), Registry(list(retrievers)), now=lambda: NOW)
        opened.append(project)
        return project

    yield open_it
    for one in opened:
        one.close()


def store_of(project: Project, retriever: Retriever) -> DocumentStore:
    return project.retrieving.store(retriever)


def held(store: DocumentStore) -> list[tuple[Any, ...]]:
    """All that an embedded index holds, sorted."""
    assert isinstance(store, EmbeddedStore)
    loaded = store._current()  # pyright: ignore[reportPrivateUsage]
    columns = [loaded.table.column(name).to_pylist() for name in loaded.table.schema.names]
    vectors = [None] * len(loaded) if loaded.matrix is None else [one.tobytes() for one in loaded.matrix]
    return sorted(zip(*columns, vectors, strict=True))


def counts(report: MaterializeReport) -> tuple[int, ...]:
    (one,) = report.retrievers
    return one.documents, one.versions, one.embedded, one.written, one.removed, one.unchanged


def test_only_what_changed_is_embedded_and_written(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    assert counts(project.materialize()) == (40, 40, 40, 40, 0, 0)
    assert counts(project.materialize()) == (40, 40, 0, 0, 0, 40)
    changed = [*ROWS[2:], row("u1", "new", "a new one"), {**ROWS[0], "text": "changed"}]
    write(tmp_path, changed)
    assert counts(project.materialize("notes")) == (40, 40, 2, 2, 2, 38)
    # a later version ends the one before, which is another record then, of a text that is known
    write(tmp_path, [*changed, {**ROWS[5], "text": "later", "valid_from": iso(at(5))}])
    assert counts(project.materialize(["notes"])) == (40, 41, 1, 2, 1, 39)
    # other metadata, the same text
    write(tmp_path, [{**one, "stars": 3} for one in changed])
    assert counts(project.materialize()) == (40, 40, 0, 40, 41, 0)
    write(tmp_path, [])
    assert counts(project.materialize(accept=True)) == (0, 0, 0, 0, 40, 0)
    assert held(store_of(project, notes())) == []


def test_an_index_is_what_a_fresh_one_would_be(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    project = open_project(notes())
    chance = random.Random(3)
    for turn in range(4):
        rows = [
            {**one, "stars": chance.randrange(2), "valid_from": iso(at(chance.randrange(1, 4)))}
            for one in chance.choices(ROWS, k=chance.randrange(60))
        ]
        write(tmp_path, rows)
        project.materialize()
        fresh = tmp_path / f"fresh{turn}"
        fresh.mkdir()
        write(fresh, rows)
        other = open_project(notes(), root=fresh)
        other.materialize()
        assert held(store_of(project, notes())) == held(store_of(other, notes()))


def test_a_full_run_makes_the_index_anew_from_vectors_that_are_known(
    tmp_path: Path, open_project: Callable[..., Project]
) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    project.materialize()
    before = held(store_of(project, notes()))
    report = project.materialize(full=True)
    assert counts(report) == (40, 40, 0, 40, 0, 0)
    assert report.retrievers[0].full
    assert held(store_of(project, notes())) == before


@pytest.mark.parametrize(
    ("other", "said", "embedded"),
    [
        (notes(embedder=FunctionEmbedder(letters, model="better", dimensions=8)), r"'letters' \(8.*'better' \(8", 40),
        (notes(metadata={"stars": "str"}), "stars: int, and the registry says stars: str", 0),
        (notes(metadata={}), r"stars: int, and the registry says \(none\)", 0),
        (notes(embedder=None), "'letters'.*no model", 0),
    ],
)
def test_another_definition_needs_a_full_run(
    tmp_path: Path, open_project: Callable[..., Project], other: Retriever, said: str, embedded: int
) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    project.materialize()
    changed = open_project(other)
    with pytest.raises(RetrieverError, match=f"{said}.*llmfeatures materialize notes --full"):
        changed.materialize()
    query = DocumentQuery(top_k=1, as_of=NOW, entity="user_id:u1", order="recent")
    assert len(store_of(project, notes()).search([query])[0]) == 1, "the old one is as it was"
    with pytest.raises(RetrieverUnavailableError, match="--full"):
        store_of(changed, other).search([query])
    assert changed.materialize(full=True).retrievers[0].embedded == embedded
    assert len(store_of(changed, other).search([query])[0]) == 1


def test_a_model_that_fails_does_not_cost_the_index(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    project.materialize()
    before = held(store_of(project, notes()))
    flat = FunctionEmbedder(lambda texts: [[1.0]] * len(texts), model="flat", dimensions=8)
    with pytest.raises(RetrieverError, match="flat"):
        open_project(notes(embedder=flat)).materialize(full=True)
    assert held(store_of(project, notes())) == before


def test_a_bad_source_changes_nothing(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    project.materialize()
    before = held(store_of(project, notes()))
    write(tmp_path, [*ROWS[:3], row("u1", "new", "new"), {"id": "x", "text": "no key", "valid_from": iso(at(1))}])
    for full in (False, True):
        with pytest.raises(SourceError, match=r"line 5 of notes\.jsonl, column 'user_id'"):
            project.materialize(full=full)
    assert held(store_of(project, notes())) == before


def test_names_are_those_of_views_and_retrievers(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    write(tmp_path, ROWS[:3], "more")
    found = Retriever("found", USER, function=lambda query: [], tier="live")
    more = Retriever("more", USER, "data/more.jsonl")
    project = open_project(notes(), more, found)
    assert [one.retriever for one in project.materialize().retrievers] == ["notes", "more"]
    assert [one.retriever for one in project.materialize("more").retrievers] == ["more"]
    with pytest.raises(UnknownNameError, match="unknown view or retriever 'note'; did you mean 'notes'"):
        project.materialize(["note"])
    with pytest.raises(RequestError, match=r"'found' is a function.*nothing to fill"):
        project.materialize(["found"])
    with pytest.raises(StoreReadOnlyError):
        open_project(notes(), toml='[online]\naccess = "read"\n').materialize()


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    make_project(
        tmp_path,
        segments=[segment("a", "x", at(1))],
        extra="retrievers:\n  - {name: gone, source: data/gone.jsonl}\n  - {name: notes, source: data/notes.jsonl}\n",
    )
    write(tmp_path, [{"id": "a", "text": "t", "valid_from": iso(at(1))}])
    project = Project.load(tmp_path, now=lambda: NOW)
    with pytest.raises(SourceError, match=r"no such file.*written: segment, activity, notes"):
        project.materialize()
    report = project.materialize(check=False)
    assert [one.view for one in report.failures] == ["gone"]
    assert [one.retriever for one in report.retrievers] == ["notes"]
    assert [one.view for one in project.state.failures("gone")] == ["gone", "gone"]
    assert [one.keys for one in project.runs("notes")] == [1, 1]
    project.close()


def test_due_by_cadence(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "t"\nregistry = "none.py"\n')
    clock = [NOW]
    hourly = notes(cadence="1h")
    project = Project(find_config(tmp_path, {}), Registry([hourly]), now=lambda: clock[0])
    assert project.due() == ["notes"]
    assert len(project.materialize(due=True).retrievers) == 1
    assert project.due() == []
    assert project.materialize(due=True).retrievers == ()
    clock[0] = NOW + timedelta(hours=1)
    assert project.due() == ["notes"]
    other = Project(find_config(tmp_path, {}), Registry([notes(cadence="1d", metadata={})]), now=lambda: NOW)
    assert other.due() == ["notes"], "an index of another definition"
    project.close()
    other.close()


def test_with_a_rate_documents_are_written_in_portions(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    assert counts(project.materialize(rate=200))[3] == 40
    manifest = json.loads((tmp_path / ".llmfeatures" / "documents" / "notes" / "manifest.json").read_text())
    assert [one["rows"] for one in manifest["entries"]] == [20, 20]
    assert len(held(store_of(project, notes()))) == 40
    with pytest.raises(RequestError, match="rate"):
        project.materialize(rate=0)


def test_progress_reaches_the_number_of_versions(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, [row("u", f"d{number}", f"text {number}") for number in range(400)])
    told: list[tuple[str, int, int]] = []
    open_project(notes()).materialize(progress=lambda *one: told.append(one))
    done = [one[1] for one in told]
    assert done == sorted(done)
    assert (told[0], told[-1]) == (("notes", 0, 400), ("notes", 400, 400))
    assert len(set(done)) > 2


def test_only_one_process_indexes_a_retriever(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    project = open_project(notes())
    with (
        project.state.alone("index-notes"),
        pytest.raises(RetrieverError, match="another process is indexing retriever 'notes'"),
    ):
        open_project(notes()).materialize()


def test_moments_at_which_documents_change(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    source = DocumentSource("data/notes.jsonl", valid_to="valid_to")
    retriever = Retriever("notes", USER, source)
    write(tmp_path, [
        row("a", "x", "one", 1), row("a", "x", "two", 3), row("a", "y", "three", 2, valid_to=iso(at(5))),
        row("b", "z", "four", 4),
    ])  # fmt: skip
    project = open_project(retriever)
    project.materialize()
    store = store_of(project, retriever)
    assert isinstance(store, DatedDocuments)
    hours = [microseconds(at(hour)) for hour in range(7)]
    assert store.boundaries("user_id:a", hours[0], hours[6]) == [hours[1], hours[2], hours[3], hours[5]]
    assert store.boundaries("user_id:a", hours[1], hours[3]) == [hours[2], hours[3]]
    assert store.boundaries("user_id:b", hours[0], hours[6]) == [hours[4]]
    assert store.boundaries("user_id:c", hours[0], hours[6]) == []


class _DiedError(BaseException):
    """Stands for a process that died."""


@pytest.mark.heavy
def test_a_run_that_died_anywhere_is_made_good_by_the_next(
    tmp_path: Path, open_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every write to the folder."""
    from llmfeatures.retrieval import index_files

    write(tmp_path, ROWS)
    project = open_project(notes())
    project.materialize()
    before = held(store_of(project, notes()))
    changed = [*ROWS[20:], row("u1", "new", "a new one")]
    write(tmp_path, changed)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    write(fresh, changed)
    other = open_project(notes(), root=fresh)
    other.materialize()
    wanted = held(store_of(other, notes()))
    real = index_files.write_manifest
    monkeypatch.setattr("llmfeatures.indexing.BATCH", 20)
    for after in (False, True):
        for dies_at in range(10):
            seen = 0

            def die(*given: Any, at: int = dies_at, late: bool = after) -> None:
                nonlocal seen
                seen += 1
                if seen > at and not late:
                    raise _DiedError
                real(*given)
                if seen > at:
                    raise _DiedError

            with monkeypatch.context() as patched:
                patched.setattr(index_files, "write_manifest", die)
                try:
                    project.materialize()
                    died = False
                except _DiedError:
                    died = True
            project.materialize()
            assert held(store_of(project, notes())) == wanted
            write(tmp_path, ROWS)
            project.materialize()
            assert held(store_of(project, notes())) == before
            write(tmp_path, changed)
            if not died:
                break
        assert not died


INDEX = f"""
import sys
from llmfeatures import *
from llmfeatures.config import find_config
import llmfeatures.indexing
from datetime import datetime, timezone
{CODE}
llmfeatures.indexing.EMBEDDED = 5
embedder = FunctionEmbedder(letters, model="letters", dimensions=8)
retriever = Retriever("notes", Entity("user", join_key="user_id"), "data/notes.jsonl", embedder=embedder,
                      metadata={{"stars": "int"}})
project = Project(find_config(sys.argv[1], {{}}), Registry([retriever]))
print("begins", flush=True)
project.materialize(rate=float(sys.argv[2]) if len(sys.argv) > 2 else None)
print("done", flush=True)
"""


def start_indexing(root: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", INDEX, str(root), *more], stdout=subprocess.PIPE, text=True)


@pytest.mark.heavy
def test_a_killed_run_is_made_good_by_the_next(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    chance = random.Random(5)
    project = open_project(notes())
    rows = [row(f"u{number % 9}", f"d{number}", f"text {'abcdefgh'[number % 8] * 3} {number}") for number in range(400)]
    killed = 0
    for turn in range(25):
        some = [{**one, "stars": chance.randrange(2)} for one in chance.sample(rows, 300)]
        write(tmp_path, some)
        with start_indexing(tmp_path, "1500") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(chance.random() * 0.5)
            process.send_signal(signal.SIGKILL)
            killed += process.stdout.read() != "done\n"
        if turn % 5 == 4:
            project.materialize()
            fresh = tmp_path / f"fresh{turn}"
            fresh.mkdir()
            write(fresh, some)
            other = open_project(notes(), root=fresh)
            other.materialize()
            assert held(store_of(project, notes())) == held(store_of(other, notes()))
    assert killed > 15


@pytest.mark.heavy
def test_nothing_vanishes_while_another_process_indexes(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    """What is in the source before and after is always found, and never a half of anything."""
    kept = [row("u", f"k{number}", f"kept {number}") for number in range(20)]
    chance = random.Random(6)
    write(tmp_path, kept)
    project = open_project(notes())
    project.materialize()
    store = store_of(project, notes())
    query = DocumentQuery(top_k=2_000, as_of=NOW, entity="user_id:u", order="recent")
    searches = 0
    for turn in range(3):
        other = [row("u", f"t{turn}-{number}", f"other {turn} {number}") for number in range(chance.randrange(50, 300))]
        write(tmp_path, [*kept, *other])
        with start_indexing(tmp_path, "3000") as process:
            while process.poll() is None:
                found = store.search([query], timeout=10)[0]
                searches += 1
                assert {f"k{number}" for number in range(20)} <= {one.id for one in found}
                assert all(one.text.split()[0] in ("kept", "other") for one in found)
        assert {one.id for one in store.search([query])[0]} == {one["id"] for one in (*kept, *other)}
    assert searches > 20


def test_a_store_sees_what_another_wrote_and_survives_a_rewrite(tmp_path: Path) -> None:
    retriever = notes(embedder=None)

    def record(number: int) -> DocumentRecord:
        return DocumentRecord(
            key=f"{number:032x}",
            entity="user_id:u",
            id=f"d{number:03}",
            version="1",
            text="t",
            metadata={"stars": number},
            valid_from=number,
            valid_to=2**53 - 1,
            vector=None,
        )

    writer, reader = EmbeddedStore(tmp_path / "i", retriever), EmbeddedStore(tmp_path / "i", retriever)
    query = DocumentQuery(top_k=1_000, as_of=NOW, entity="user_id:u", order="recent")
    writer.begin(index_meta(retriever))
    writer.complete(index_meta(retriever, NOW))
    there: set[str] = set()
    rewritten = 0
    for number in range(32):
        writer.write([record(number)])
        there.add(f"d{number:03}")
        if number % 3 == 2:
            writer.remove([f"{number - 1:032x}"])
            there.remove(f"d{number - 1:03}")
        if number % 16 == 15:
            writer.complete(index_meta(retriever, NOW))
            rewritten += len(list((tmp_path / "i").glob("*.parquet"))) == 1
        assert {one.id for one in reader.search([query])[0]} == there
        assert {one.metadata["stars"] for one in reader.search([query])[0]} == {int(one[1:]) for one in there}
    assert rewritten >= 1
    assert sorted(reader.keys()) == sorted(f"{int(one[1:]):032x}" for one in there)


def test_files_of_those_who_died_are_removed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "i", notes())
    store.begin(index_meta(notes()))
    (tmp_path / "i" / f"{'0' * 32}.parquet").write_bytes(b"half a file")
    (tmp_path / "i" / ".manifest.json.x.part").write_bytes(b"{")
    store.begin(index_meta(notes()))
    assert sorted(os.listdir(tmp_path / "i")) == ["lock", "manifest.json"]  # noqa: PTH208


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "file").write_text("")
    project = open_project(notes(), toml='[retrieval]\nurl = "embedded:file"\n')
    with pytest.raises(RetrieverError, match=r"cannot be written.*\[retrieval\] url"):
        project.materialize()


def test_projects_may_share_a_folder(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    for namespace in ("one", "two"):
        toml = f'[online]\nnamespace = "{namespace}"\n[retrieval]\nurl = "embedded:a"\n'
        report = open_project(notes(), toml=toml).materialize()
        assert report.retrievers[0].written
    assert sorted(os.listdir(tmp_path / "a")) == ["one", "two"]  # noqa: PTH208


def test_retrievers_may_lie_elsewhere(tmp_path: Path, open_project: Callable[..., Project]) -> None:
    write(tmp_path, ROWS)
    write(tmp_path, ROWS, "more")
    more = Retriever("more", USER, "data/more.jsonl")
    toml = '[retrieval]\nurl = "embedded:a"\nnamespace = "n/m"\n[retrieval.urls]\nmore = "embedded:b"\n'
    open_project(notes(), more, toml=toml).materialize()
    assert (tmp_path / "a" / "n%2Fm" / "notes" / "manifest.json").is_file()
    assert (tmp_path / "b" / "n%2Fm" / "more" / "manifest.json").is_file()


@pytest.mark.parametrize("full", [False, True])
def test_a_source_that_was_emptied_or_cut_off_leaves_the_index(
    tmp_path: Path, open_project: Callable[..., Project], full: bool
) -> None:
    project = open_project(notes())
    write(tmp_path, [])
    with pytest.raises(ExpectationError, match=r"'notes': the source has 0 versions of documents; nothing.*--accept"):
        project.materialize(full=full)
    write(tmp_path, ROWS)
    project.materialize(full=full)
    before = held(store_of(project, notes()))
    for few in (0, 19):
        write(tmp_path, ROWS[:few])
        with pytest.raises(ExpectationError, match=rf"has {few} versions of documents, and the index holds 40"):
            project.materialize(full=full)
        assert held(store_of(project, notes())) == before
    assert counts(project.materialize(full=full, accept=True))[:2] == (19, 19)
    write(tmp_path, ROWS[:10])  # more than half is left
    assert counts(project.materialize(full=full))[:2] == (10, 10)
    write(tmp_path, [])
    assert counts(project.materialize(full=full, accept=True))[:2] == (0, 0)
    assert counts(project.materialize(full=full))[:2] == (0, 0)  # as empty as before


@pytest.mark.parametrize("damage", ["manifest", "bytes", "records"])
def test_a_damaged_index_is_a_retriever_that_is_unavailable(
    tmp_path: Path, open_project: Callable[..., Project], damage: str
) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "prompts").mkdir()
    for policy in ("none", "error"):
        header = f"documents:\n  found: {{retriever: notes, order: recent, on_unavailable: {policy}}}\n"
        text = f"---\n{header}---\n{{% for one in found %}}{{{{ one.id }}}} {{% endfor %}}"
        (tmp_path / "prompts" / f"{policy}.prompt.j2").write_text(text)
    open_project(notes()).materialize()
    folder = tmp_path / ".llmfeatures" / "documents" / "notes"
    path = next(iter(folder.glob("*.parquet"))) if damage == "records" else folder / "manifest.json"
    path.write_bytes(b"\xff\xfe" if damage == "bytes" else path.read_bytes()[:50])
    project = open_project(notes())
    made = project.builder().build_context("none", user_id="u1")
    assert made.manifest.degraded
    assert f"{path.name} {'cannot be read' if damage == 'records' else 'is damaged'}; run llmfeatures materialize " in (
        made.manifest.retrievals["found"].problem or ""
    )
    with pytest.raises(DocumentsUnavailableError, match="materialize notes --full"):
        project.builder().build_context("error", user_id="u1")
    with pytest.raises(RetrieverUnavailableError, match="materialize notes --full"):
        project.materialize()
    project.materialize(full=True)
    assert len(held(store_of(project, notes()))) == 40
    assert not project.builder().build_context("none", user_id="u1").manifest.degraded


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_ended_is_found_in_history_and_no_more_now(
    tmp_path: Path, open_project: Callable[..., Project], kind: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row("u1", "stays", "x", 1), row("u1", "gone", "y", 1)]
    write(tmp_path, [rows[0], {**rows[1], "valid_to": iso(at(3))}])
    moments = {"valid_from": [at(1)] * 2, "valid_to": [None, at(3)]}
    columns = {name: [one[name] for one in rows] for name in ("user_id", "id", "text")}
    pq.write_table(pa.table({**columns, **moments}), tmp_path / "data" / "notes.parquet")
    (tmp_path / "prompts").mkdir()
    header = "---\ndocuments:\n  found: {retriever: notes, order: recent}\n---\n"
    (tmp_path / "prompts" / "p.prompt.j2").write_text(header + "{% for one in found %}{{ one.id }} {% endfor %}")
    project = open_project(Retriever("notes", USER, f"data/notes.{kind}"))
    project.materialize()
    builder = project.builder()

    def found(**options: Any) -> set[str]:
        return {one.id for one in builder.build_context("p", user_id="u1", **options).documents["found"]}

    assert found() == {"stays"}
    assert found(as_of=at(2)) == {"stays", "gone"}
    spine = pa.table({"user_id": ["u1"] * 2, "event_timestamp": [at(2), at(4)]})
    listed = project.history("p", spine).read_all().to_pylist()
    assert [sorted(one["id"] for one in each["documents"]) for each in listed] == [["gone", "stays"], ["stays"]]
