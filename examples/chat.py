"""A chat in a terminal, with OpenAI's client or any server that speaks its protocol.

    python chat.py 8a2f

What is known of the viewer is read once, when the chat begins, and stays as it was: so an answer never contradicts the
one before it, and the provider's cache holds. An empty line ends it. Needs ``pip install openai``; OPENAI_BASE_URL
names another server, OPENAI_MODEL another model.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is one of its prompts, of a ``user_id``:
``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from openai import OpenAI

from llmfeatures import ContextBuilder
from llmfeatures.errors import LLMFeaturesError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")


def main(user_id: str = "8a2f") -> None:
    """Read lines, print answers."""
    client, builder = OpenAI(), ContextBuilder.from_project(".")
    ctx = builder.build_context(PROMPT, user_id=user_id)
    turns: list[ChatCompletionMessageParam] = []
    while line := input("> ").strip():
        turns.append({"role": "user", "content": line})
        answer = client.chat.completions.create(model=MODEL, **ctx.chat(turns))
        text = answer.choices[0].message.content or ""
        turns.append({"role": "assistant", "content": text})
        print(text)
    builder.close()
    client.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except (EOFError, KeyboardInterrupt):
        print()
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
