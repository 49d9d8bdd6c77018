"""The page of each rule: what is wrong, why, and a bad and a good example.

docs/rules.md is what `document` gives:
``python -c 'from llmfeatures.checker.pages import document; print(document(), end="")' > docs/rules.md``

The text is beside this module, a Markdown file per rule. A fence's info string says what its block is: ``jinja bad`` is
the prompt of a bad example, ``jinja good PATH`` a further file of the good one before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

from llmfeatures.checker.rules import RULES, Rule

PROMPT: Final = "prompts/example.prompt.j2"
"""Where the prompt of an example is, unless it says otherwise."""

FEATURES: Final = """\
from llmfeatures import Entity, FeatureView, OnnxEmbedder, Registry, Retriever

user = Entity("user", join_key="user_id")
title = Entity("title", join_key="title_id")
features = {
    "user_segment": "enum[casual,power_user]",
    "last_genre": "str",
    "bio": "str",
    "watch_count_30d": "int",
    "minutes_30d": "float",
    "plan_price": "decimal(10,2)",
    "subscribed": "bool",
    "signed_up": "date",
    "last_seen": "timestamp",
    "genres": "list[str]",
    "settings": "json",
}
profile = FeatureView("profile", user, "data/profile.parquet", features)
ratings = FeatureView("ratings", title, "data/ratings.parquet", {"avg_rating": "float"})
metadata = {"title_id": "str", "device": "str"}
sessions = Retriever("viewing_sessions", user, "data/sessions.jsonl", embedder=OnnxEmbedder(), metadata=metadata)
registry = Registry([profile, ratings, sessions])
"""
"""The registry of the examples that bring none of their own."""

_FENCE = re.compile(r"^```(\w+) (bad|good)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^```(\w+) (?:bad|good)(?: \S+)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example: its files by path, relative to the project. A bad one has the rule's finding, a good one nothing."""

    kind: Literal["bad", "good"]
    files: Mapping[str, str]


def page(code: str) -> str:
    """The page of a rule, as Markdown. The code is one of `RULES`."""
    rule = RULES[code]
    shown = _SHOWN.sub(r"```\1", _text(code))
    return f"{_heading(rule)}\n\n{shown}"


def examples(code: str) -> list[Example]:
    """The examples on a rule's page, in its order."""
    found: list[tuple[str, dict[str, str]]] = []
    for match in _FENCE.finditer(_text(code)):
        kind, path, text = match[2], match[3] or PROMPT, match[4]
        if not found or found[-1][0] != kind or path in found[-1][1]:
            found.append((kind, {}))
        found[-1][1][path] = text
    return [Example(kind="bad" if kind == "bad" else "good", files=files) for kind, files in found]


def document() -> str:
    """All pages as one Markdown document."""
    table = [f"| [{rule.code}](#{_anchor(rule)}) | {rule.severity} | {rule.summary} |" for rule in RULES.values()]
    return "\n".join([_INTRODUCTION, *table, "", *("#" + page(code) for code in RULES)])


def _text(code: str) -> str:
    return resources.files(__name__).joinpath(f"{code}.md").read_text("utf-8")


def _heading(rule: Rule) -> str:
    return f"# {rule.code} {rule.name}\n\n**{rule.severity}**: {rule.summary}."


def _anchor(rule: Rule) -> str:
    return f"{rule.code} {rule.name}".lower().replace(" ", "-")


_INTRODUCTION: Final = f"""\
# Rules of the checker

Each finding of `llmfeatures check` has one of these codes; `llmfeatures check --explain CODE` prints the page of one.
An **error** fails, or prints what nobody wants, whenever a run comes there; a **warning** is worth a look, an **info**
is worth knowing. A code never changes its meaning. How to run the checker, to ignore a finding or a rule, and to apply
fixes: [checking prompts](check.md).

The examples are prompts of a project with this registry, unless they bring their own:

```python
{FEATURES}```

| code | severity | what is wrong |
|---|---|---|"""
