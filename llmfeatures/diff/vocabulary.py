"""What the author of a prompt wrote: the words and texts of its template, its partials and its header's defaults.

In a rendered prompt whatever is none of it came from a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from jinja2 import TemplateSyntaxError, nodes

from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import ABSENT
from llmfeatures.types import text

_TOKEN: Final = re.compile(r"\n|[^\S\n]+|\w+(?:(?:['\u2019-]|(?<=\d)[.,:](?=\d))\w+)*|[^\w\s]")


def tokens_of(written: str) -> list[str]:
    """The words, signs and stretches of white space of a text; joined they are the text."""
    return _TOKEN.findall(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What authors wrote: the ``words``; which follows which (``pairs``; empty text is the beginning or the end of a
    text); those that stand ``alone`` between values; and the ``whole``, each white space in it one space."""

    words: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    alone: frozenset[str]
    whole: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """The vocabulary of texts without values in them."""
        lines = [[token for token in tokens_of(one) if not token.isspace()] for one in texts]
        return cls(
            words=frozenset(token for line in lines for token in line),
            pairs=frozenset(pair for line in lines for pair in pairwise(["", *line, ""])),
            alone=frozenset(line[0] for line in lines if len(line) == 1),
            whole="\x00".join(" ".join(one.split()) for one in texts),
        )

    def __or__(self, other: Vocabulary) -> Vocabulary:
        return Vocabulary(
            words=self.words | other.words,
            pairs=self.pairs | other.pairs,
            alone=self.alone | other.alone,
            whole=f"{self.whole}\x00{other.whole}",
        )

    def says(self, phrase: str) -> bool:
        """Whether an author wrote this somewhere."""
        return " ".join(phrase.split()) in self.whole

    def own(self, tokens: Sequence[str]) -> list[bool]:
        """Of each token, whether an author wrote it, white space left open. A value may hold the same words, but seldom
        between the same neighbours; and numbers that stand alone, as defaults do, are values."""
        places = [place for place, token in enumerate(tokens) if not token.isspace()]
        made = [False] * len(tokens)
        known, before = self.pairs, ""
        for number, place in enumerate(places):
            token = tokens[place]
            after = tokens[places[number + 1]] if number + 1 < len(places) else ""
            made[place] = (
                token in self.words
                and (not before or (before, token) in known or ("", token) in known)
                and (not after or (token, after) in known or (token, "") in known)
                and not (token in self.alone and token[0].isdigit())
            )
            before = token
        return made


def vocabulary_of(plan: PromptPlan) -> Vocabulary:
    """The vocabulary of a compiled prompt."""
    return Vocabulary.of(list(_written(plan)))


def _written(plan: PromptPlan) -> Iterator[str]:
    environment = make_environment(Path())
    for source in (plan.template.body, *plan.partials.values()):
        try:
            tree = environment.parse(source)
        except TemplateSyntaxError:  # a partial that the plan does not need to be right
            continue
        for node in tree.find_all((nodes.TemplateData, nodes.Const)):
            if isinstance(node, nodes.TemplateData):
                yield node.data
            elif isinstance(node.value, str):
                yield node.value
    for ref in plan.features.outputs:
        if ref.policy.default is not ABSENT and ref.policy.default is not None:
            yield text(ref.policy.default)
