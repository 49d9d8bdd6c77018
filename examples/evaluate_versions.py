# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Which of two prompts does better? Both over the same moments of history, answered by a model, and scored.

    python evaluate_versions.py recommender recommender_short

Each row is a user and a moment of the past, with the prompt as it would have been then; the target is the genre that
the user watched in the day after, which no prompt has seen. An answer that names it is right. Needs ``pip install
openai``; OPENAI_BASE_URL names another server, OPENAI_MODEL another model.

Run it in the folder of a project with two prompts of a ``user_id``, and set LABEL to a feature of it: ``recommender``
and ``last_genre`` are the sample's, that is this repository's; the shorter prompt is yours to write.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from openai import OpenAI

from llmfeatures import Project
from llmfeatures.errors import LLMFeaturesError

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
USERS = int(os.environ.get("EVAL_USERS", "20"))
MAX_TOKENS = int(os.environ.get("EVAL_MAX_TOKENS", "120"))
LABEL = "last_genre"
QUESTION = "Which genre should I watch next?"


class Answer(NamedTuple):
    """One row's: who and when, whether it names the target, and its tokens."""

    row: tuple[str, Any]
    right: bool
    tokens: int


def answers(project: Project, client: OpenAI, prompt: str) -> Iterator[Answer]:
    """The model's answers to a prompt's history."""
    history = project.history(prompt, users=USERS, every="1d", since="2d", label=f"{LABEL}@+1d")
    for batch in history:
        for row in batch.to_pylist():
            if row["error"] is not None or row["target"] is None:
                continue
            made = client.chat.completions.create(
                model=MODEL,
                messages=[*row["messages"], {"role": "user", "content": QUESTION}],
                max_completion_tokens=MAX_TOKENS,
                temperature=0,
            )
            text = made.choices[0].message.content or ""
            used = 0 if made.usage is None else made.usage.prompt_tokens
            yield Answer((row["entity"]["user_id"], row["as_of"]), row["target"] in text.lower(), used)


def main(*prompts: str) -> None:
    """Print a line for each prompt, and on how many rows each is better than the first."""
    project, client = Project.load("."), OpenAI()
    first: dict[tuple[str, Any], Answer] = {}
    for prompt in prompts:
        made = {one.row: one for one in answers(project, client, prompt)}
        right, tokens = sum(one.right for one in made.values()), sum(one.tokens for one in made.values())
        version = project.prompts.plan(prompt).version[:12]
        print(f"{prompt} ({version}): {right} of {len(made)} right, {tokens / max(len(made), 1):.0f} tokens a prompt")
        both = [(first[row].right, made[row].right) for row in made.keys() & first.keys()]
        if both:
            print(
                f"  better than {prompts[0]} on {both.count((False, True))} rows, worse on {both.count((True, False))}"
            )
        first = first or made
    client.close()
    project.close()


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["recommender", "recommender_short"]))
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
