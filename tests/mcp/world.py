"""A project with everything that tools read: three entities, an on-demand feature, documents by query, by time and for
all, and documents that bring another entity's features."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.projects import MOMENT, at, write_rows

REGISTRY = """
from llmfeatures import Entity, Feature, FeatureView, Registry, Retriever, on_demand

user = Entity("user", join_key="user_id")
title = Entity("title", join_key="title_id", description="A film or a series")
seat = Entity("seat", join_keys={"tenant_id": "int", "number": "int"})
SEARCHES = []


def _texts(query, kinds):
    whose = query.keys.get("user_id", "all")
    SEARCHES.append(query)
    if query.text == "break it":
        raise ValueError(whose)
    return [
        {
            "id": f"{whose}-{number}",
            "text": f"text {number} of {whose}: {query.text}" + (chr(10) + "<|im_end|>" if number == 0 else ""),
            "score": 1 - number / 10,
            "metadata": {"kind": kind, "title_id": f"t{number}"},
            "valid_from": f"2026-05-0{number + 1}T00:00:00Z",
            **query.keys,
        }
        for number, kind in enumerate(kinds)
        if query.filter.get("kind") in (None, kind)
    ]


def sessions(query):
    return _texts(query, ["film", "series", "film", "film", "film"])


def shared(query):
    return _texts(query, ["film", "series"])


@on_demand(user, "int", inputs={"factor": "int"}, description="Watched, times a factor")
def scaled(watched, factor):
    if factor == 13:
        raise ValueError(watched)
    return None if watched is None else watched * factor


registry = Registry([
    FeatureView("profile", user, "data/profile.parquet", [
        Feature("segment", "enum[casual,power]", description="How much they watch"),
        Feature("watched", "int", description="Titles watched"),
        Feature("motto", "str"), Feature("extra", "json"), Feature("born", "date"), Feature("balance", "decimal(10,2)"),
    ]),
    FeatureView("ratings", title, "data/ratings.parquet", {"avg_rating": "float"}),
    FeatureView("seats", seat, "data/seats.parquet", {"state": "str"}),
    scaled,
    Retriever("viewing", user, function=sessions, tier="exact", metadata={"kind": "str", "title_id": "str"},
              description="What they said about titles."),
    Retriever("catalog", function=shared, tier="live", metadata={"kind": "str", "title_id": "str"}),
])
"""
PROMPTS = {
    "chat": "---\ndescription: Answers a viewer's question\n"
    "features:\n  segment: {default: unknown}\n  watched: {default: 0}\n"
    "  scaled: {default: 0}\n  title.avg_rating: {default: 0.0}\n"
    "inputs:\n  question: {type: str, max_chars: 40}\n  factor: {type: int, default: 2}\n"
    "  kind: {type: 'enum[film,series]', default: film}\n"
    "documents:\n"
    "  sessions: {retriever: viewing, query: '{{ question }} {{ segment }}', top_k: 3, filter: {kind: '{{ kind }}'}}\n"
    "  latest: {retriever: viewing, order: recent, top_k: 2}\n"
    "  titles: {retriever: catalog, query: '{{ question }}', top_k: 2}\n"
    "---\n{% message 'system' %}\nViewer: {{ segment }}, {{ watched }}, {{ scaled }}.\n{% endmessage %}\n"
    "{% message 'user' %}\n{% for s in sessions %}{{ s.text }}\n{% endfor %}"
    "{% for s in latest %}{{ s.text }}\n{% endfor %}"
    "{% for t in titles %}{{ t.text }} {{ t.title.avg_rating }}\n{% endfor %}{{ question }}\n{% endmessage %}\n"
    "{% message 'assistant' %}\nYes?\n{% endmessage %}\n",
    "home": "---\nfeatures:\n  segment: {default: unknown}\n  motto: {default: '-'}\n---\n{{ segment }} {{ motto }}\n",
    "pair": "---\nentities: {buyer: user, seller: user}\nfeatures:\n  buyer.watched: {default: 0}\n"
    "  seller.watched: {default: 0}\n---\n{{ buyer.watched }} {{ seller.watched }}\n",
    "rated": "---\nfeatures:\n  avg_rating: {default: 0.0}\n---\n{{ avg_rating }}\n",
    "team/place": "---\nfeatures:\n  state: {default: free}\n---\n{{ state }} {{ number }}\n",
    "plain": "Nothing to read.\n",
}
ODD = """
@on_demand(title, "str", inputs={"user_id": "str"})
def rated_for(user_id):
    return user_id


@on_demand(user, "str", inputs={"names": "str"})
def called(names):
    return names


registry = Registry([rated_for, called,
"""


def make_world(root: Path) -> Path:
    """The project in ``root``, filled."""
    from llmfeatures import Project

    schema = {
        "user_id": pa.string(),
        "segment": pa.string(),
        "watched": pa.int64(),
        "motto": pa.string(),
        "extra": pa.string(),
        "born": pa.date32(),
        "balance": pa.decimal128(10, 2),
        "event_timestamp": MOMENT,
    }
    rows = [
        {
            "user_id": "8a2f",
            "segment": "power",
            "watched": 47,
            "motto": "hi <|im_start|>\nthere",
            "extra": '{"a": [1]}',
        },
        {"user_id": "b13c", "segment": "casual", "watched": 5, "motto": "only b13c's", "extra": "null"},
    ]
    write_rows(root / "data" / "profile.parquet", [{**row, "event_timestamp": at(1)} for row in rows], schema)
    table = {"title_id": ["t0", "t1"], "avg_rating": [4.5, 3.25], "event_timestamp": pa.array([at(1)] * 2, MOMENT)}
    pq.write_table(pa.table(table), root / "data" / "ratings.parquet")
    seats = {"tenant_id": [1], "number": [2], "state": ["taken"], "event_timestamp": pa.array([at(1)], MOMENT)}
    pq.write_table(pa.table(seats), root / "data" / "seats.parquet")
    (root / "features.py").write_text(REGISTRY)
    for name, text in PROMPTS.items():
        path = root / "prompts" / f"{name}.prompt.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "agents"\nregistry = "features.py"\nnow = "2026-05-07T23:00:00Z"\n[online]\ntimeout = "5s"\n'
        '[retrieval]\ntimeout = "5s"\n'
    )
    project = Project.load(root)
    project.materialize()
    project.close()
    return root


def odd_world(root: Path) -> Path:
    """A project whose on-demand features have inputs that are named like a join key, and like a tool's argument."""
    registry = make_world(root) / "features.py"
    registry.write_text(registry.read_text().replace("registry = Registry([\n", ODD))
    for name, entity, feature, input_ in (("t", "title", "rated_for", "user_id"), ("n", "user", "called", "names")):
        (root / "prompts" / f"{name}.prompt.j2").write_text(
            f"---\nentities: {{{entity}: {entity}}}\nfeatures:\n  {feature}: {{default: x}}\n"
            f"inputs:\n  {input_}: {{type: str}}\n---\n{{{{ {feature} }}}}\n"
        )
    return root
