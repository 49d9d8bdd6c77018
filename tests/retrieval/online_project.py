"""A project with retrievers that are functions, for tests of what is read online."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmfeatures import Entity, FeatureView, Project, PushSource, Registry, Retriever
from llmfeatures.config import find_config
from llmfeatures.ports import DocumentQuery

NOW = datetime(2026, 5, 7, 23, tzinfo=UTC)
USER = Entity("user", join_key="user_id")
TITLE = Entity("title", join_key="title_id")
GENRE = FeatureView("taste", USER, PushSource(), {"genre": "str"})
RATING = FeatureView("ratings", TITLE, PushSource(), {"rating": "float"})
Find = Callable[[DocumentQuery], Any]


def retriever(find: Find, **options: Any) -> Retriever:
    """A retriever of users' documents by a function."""
    return Retriever("sessions", USER, function=find, tier="exact", metadata={"title_id": "str"}, **options)


def document(name: str, text: str = "", *, user: str = "u", score: float = 0.5, **fields: Any) -> dict[str, Any]:
    """A document as a function returns it."""
    return {"id": name, "text": text or f"text {name}", "score": score, "user_id": user, **fields}


def make_project(
    root: Path,
    *retrievers: Retriever,
    prompts: Mapping[str, str],
    now: Callable[[], datetime] = lambda: NOW,
    config: str = "",
) -> Project:
    """A project whose registry is made here, with the genre of user ``u`` and the rating of title ``t1``."""
    for name, text in prompts.items():
        path = root / "prompts" / f"{name}.prompt.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "llmfeatures.toml").write_text(f'[project]\nname = "documents"\nregistry = "features.py"\n{config}')
    project = Project(find_config(root), Registry([GENRE, RATING, *retrievers]), now=now)
    moment = "2026-05-07T12:00Z"
    project.push("taste", [{"user_id": "u", "genre": "drama", "event_timestamp": moment}])
    project.push("ratings", [{"title_id": "t1", "rating": 4.5, "event_timestamp": moment}])
    return project


def prompt(documents: str, body: str = "{% for d in docs %}{{ d.id }}\n{% endfor %}", *, header: str = "") -> str:
    """A prompt file with documents called ``docs``."""
    return (
        "---\nfeatures:\n  genre: {default: nothing}\n  title.rating: {default: 0.0}\n"
        f"inputs: {{question: str}}\ndocuments:\n  docs: {documents}\n{header}---\nGenre {{{{ genre }}}}\n{body}\n"
    )
