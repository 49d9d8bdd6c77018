"""Random projects with documents: versions, gaps, ties, documents for all and of one user, the titles they bring."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from llmfeatures.clock import from_microseconds, iso, microseconds
from llmfeatures.testing.document_rule import Asked, SourceRow, found, merged
from tests.retrieval.vectors import DIMENSIONS, counted

START = datetime(2026, 5, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
MOMENT = pa.timestamp("us", "UTC")
LAST = 24
"""Everything happens within so many microseconds after the start."""
USERS = ["ada", "bob", "a:b", ""]
TITLES = ["t1", "t2"]
KINDS = ["memo", "letter"]
WORDS = ["drama", "comedy", "crime", "night", "rain", "</data-000000000000>", "<|im_start|>", "{{ x }}", "zwölf"]
FETCHED = 2
EMBEDDER = {"function": "tests.retrieval.vectors:embed", "model": "counted", "dimensions": DIMENSIONS}

HEADER = """---
features:
  last_genre: {default: drama}
  title.stars: {default: 0}
  title.label: {on_missing: none}
inputs:
  question: {type: str, default: night}
  kind: {type: str, default: memo}
documents:
%s
---
"""
ROWS = """{{ last_genre }} {{ question }}{% if dated %} {{ as_of }}{% endif %}
{% for d in own %}own {{ d.id }} {{ d.version }} {{ d.score | or_else('-') }} {{ d.metadata.kind | or_else('-') }} \
{{ d.title.stars }} {{ d.title.label | or_else('-') }} {{ d.text }}
{% endfor %}
"""
SHARED = """{% for d in all %}all {{ d.id }} {{ d.score | or_else('-') }} {{ d.text }}
{% endfor %}
"""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the header says of one name of documents."""

    retriever: str
    query: str | None
    top_k: int
    min_score: float | None = None
    kind: str | None = None
    """The filter: a kind, or ``{{ kind }}``."""

    def written(self) -> str:
        """As YAML."""
        options: dict[str, Any] = {"retriever": self.retriever, "top_k": self.top_k}
        options |= {"order": "recent"} if self.query is None else {"query": self.query}
        options |= {} if self.min_score is None else {"min_score": self.min_score}
        options |= {} if self.kind is None else {"filter": {"kind": self.kind}}
        return json.dumps(options)


@dataclass(frozen=True, kw_only=True)
class World:
    """A project to write down. ``documents`` are by retriever; times but theirs are microseconds after `START`."""

    documents: dict[str, list[SourceRow]]
    genres: list[tuple[str, str | None, int, int]]
    """User, genre, event, created."""
    stars: list[tuple[str, int | None, int]]
    ttl: str | None
    names: dict[str, Names]
    dated: bool
    users: list[str | None]
    question: str
    kind: str
    at: int

    def template(self) -> str:
        """The prompt file."""
        body = (ROWS if "own" in self.names else "{{ last_genre }} {{ question }}\n").replace(
            "{% if dated %} {{ as_of }}{% endif %}", " {{ as_of }}" if self.dated else ""
        )
        header = "\n".join(f"  {name}: {one.written()}" for name, one in self.names.items())
        written = HEADER % header
        if "own" not in self.names:
            written = written.replace("  title.stars: {default: 0}\n  title.label: {on_missing: none}\n", "")
        return written + body + (SHARED if "all" in self.names else "")

    def write(self, root: Path) -> None:
        """Make the project's files in a folder."""
        (root / "prompts").mkdir(parents=True)
        (root / "prompts" / "p.prompt.j2").write_text(self.template(), encoding="utf-8")
        (root / "features.yaml").write_text(yaml.safe_dump(self.registry()), encoding="utf-8")
        (root / "llmfeatures.toml").write_text(
            f'[project]\nname = "documents-{root.name}"\nregistry = "features.yaml"\n'
            '[online]\ntimeout = "10s"\n[retrieval]\ntimeout = "10s"\n'
        )
        write_table(
            root / "genres.parquet",
            ["user_id", "last_genre", "event_timestamp", "created_timestamp"],
            [pa.string(), pa.string(), MOMENT, MOMENT],
            [(user, genre, moment(event), moment(created)) for user, genre, event, created in self.genres],
        )
        write_table(
            root / "stars.parquet",
            ["title_id", "stars", "event_timestamp"],
            [pa.string(), pa.int64(), MOMENT],
            [(title, stars, moment(event)) for title, stars, event in self.stars],
        )
        for name, rows in self.documents.items():
            write_documents(root / f"{name}.jsonl", rows)

    def registry(self) -> dict[str, Any]:
        """As YAML has it."""
        ttl = {} if self.ttl is None else {"ttl": self.ttl}
        source = {"valid_to": "valid_to"}
        undated = any(row.begins is None for row in self.documents["pages"])
        pages = {"path": "pages.jsonl", **({"valid_from": None} if undated else source)}
        return {
            "entities": [{"name": "user", "join_key": "user_id"}, {"name": "title", "join_key": "title_id"}],
            "views": [
                {
                    "name": "genres", "entity": "user", "features": {"last_genre": "str"},
                    "source": {"path": "genres.parquet", "created_timestamp": "created_timestamp"},
                },
                {
                    "name": "ratings", "entity": "title", "features": {"stars": "int"}, "source": "stars.parquet",
                    **ttl,
                },
            ],
            "on_demand": [
                {
                    "name": "label", "entity": "title", "dtype": "str", "inputs": {"question": "str"},
                    "function": "tests.retrieval.computed:label",
                }
            ],
            "retrievers": [
                {
                    "name": "notes", "entity": "user", "source": {"path": "notes.jsonl", **source},
                    "metadata": {"title_id": "str", "kind": "str"}, "embedder": EMBEDDER,
                },
                {
                    "name": "pages", "source": pages, "metadata": {"kind": "str"},
                    "embedder": EMBEDDER,
                },
            ],
        }  # fmt: skip

    def expected(self, user: str | None, at: int) -> list[tuple[str, float | None]]:
        """The ids and scores of the documents in the prompt of a user at a moment, by the rule."""
        genre = self._genre(user, at)
        asked: list[Asked] = []
        for one in self.names.values():
            if one.retriever == "notes" and user is None:
                asked.append(Asked(found=[], top_k=one.top_k, fetched=0))
                continue
            text = one.query and one.query.replace("{{ question }}", self.question).replace("{{ last_genre }}", genre)
            where = {} if one.kind is None else {"kind": one.kind.replace("{{ kind }}", self.kind)}
            rows = found(
                self.documents[one.retriever],
                (user,) if one.retriever == "notes" else (),
                absolute(at),
                query=None if text is None else counted(text),
                vector_of=counted,
                where=where,
            )
            asked.append(Asked(found=rows, top_k=one.top_k, fetched=FETCHED * one.top_k, min_score=one.min_score))
        return [(row.id, score) for each in merged(asked) for row, score in each]

    def _genre(self, user: str | None, at: int) -> str:
        """The last genre by the clock ``known``, after its default."""
        rows = [row for row in self.genres if row[0] == user and max(row[2], row[3]) <= at]
        last = max(rows, key=lambda row: (row[2], row[3], json.dumps([row[1]]).encode()), default=None)
        return "drama" if last is None or last[1] is None else last[1]


def moment(offset: int) -> datetime:
    """So many microseconds after the start."""
    return START + offset * US


def absolute(offset: int) -> int:
    """The same in microseconds since 1970."""
    return microseconds(START) + offset


def write_table(path: Path, names: list[str], types: list[Any], rows: list[tuple[Any, ...]]) -> None:
    """A Parquet file."""
    columns = [pa.array([row[place] for row in rows], dtype) for place, dtype in enumerate(types)]
    pq.write_table(pa.table(columns, names=names), path)


def write_documents(path: Path, rows: list[SourceRow]) -> None:
    """A JSONL file of documents."""
    lines = [
        {
            "id": row.id,
            "text": row.text,
            **({"user_id": row.entity[0]} if row.entity else {}),
            **({} if row.begins is None else {"valid_from": iso(from_microseconds(row.begins))}),
            "valid_to": None if row.ends is None else iso(from_microseconds(row.ends)),
            **row.metadata,
        }
        for row in rows
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


@st.composite
def sources(draw: st.DrawFn, users: list[str], titles: bool) -> list[SourceRow]:
    """Versions of a few documents, so that they follow, overlap and tie. There is at least one row, so that the file
    has its columns."""
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
    rows: list[SourceRow] = []
    for _ in range(draw(st.integers(1, 10))):
        begins = absolute(draw(st.integers(0, LAST) | st.integers(0, 4)))
        ends = draw(st.none() | st.integers(1, 12))
        metadata = {"kind": draw(st.sampled_from([*KINDS, None]))}
        metadata |= {"title_id": draw(st.sampled_from([*TITLES, "t3", None]))} if titles else {}
        rows.append(
            SourceRow(
                id=draw(st.sampled_from(["d1", "d2", "d3", "d4"])),
                text=draw(texts),
                entity=(draw(st.sampled_from(users)),) if users else (),
                begins=begins,
                ends=None if ends is None else begins + ends,
                metadata=metadata,
            )
        )
    return rows


@st.composite
def worlds(draw: st.DrawFn, *, dated: bool = True) -> World:
    """A world with times that meet. ``dated``: its prompt may read as_of."""
    users = draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=2, unique=True))
    queries = st.sampled_from(["{{ question }}", "{{ last_genre }} {{ question }}", None])
    kinds = st.none() | st.just("{{ kind }}") | st.sampled_from(KINDS)
    names: dict[str, Names] = {}
    for name, retriever in draw(st.sampled_from([(("own", "notes"),), (("own", "notes"), ("all", "pages"))])):
        query = draw(queries)
        names[name] = Names(
            retriever=retriever,
            query=query,
            top_k=draw(st.integers(1, 3)),
            min_score=None if query is None else draw(st.sampled_from([None, None, 0.4])),
            kind=draw(kinds),
        )
    times = st.integers(0, LAST)
    pages = draw(sources([], titles=False))
    if draw(st.booleans()):  # always there
        pages = list({row.id: replace(row, begins=None, ends=None) for row in pages}.values())
    return World(
        documents={"notes": draw(sources(users, titles=True)), "pages": pages},
        genres=draw(
            st.lists(st.tuples(st.sampled_from(users), st.sampled_from([*WORDS[:4], None]), times, times), max_size=5)
        ),
        stars=draw(st.lists(st.tuples(st.sampled_from(TITLES), st.sampled_from([None, 1, 2, 5]), times), max_size=5)),
        ttl=draw(st.sampled_from([None, "3us"])),
        names=names,
        dated=dated and draw(st.booleans()),
        users=[*users, "nobody of these", None],
        question=draw(st.lists(st.sampled_from(WORDS[:5]), min_size=1, max_size=2).map(" ".join)),
        kind=draw(st.sampled_from(KINDS)),
        at=draw(st.integers(0, LAST + 6)),
    )
