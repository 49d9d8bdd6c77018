"""A chat in a terminal with Anthropic's client: the same prompt file, another provider.

    python anthropic_chat.py 8a2f

The prompt's system messages become Anthropic's ``system``, and a ``{% cache_break %}`` its ``cache_control``. An empty
line ends it. Needs ``pip install anthropic``.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is one of its prompts, of a ``user_id``:
``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anthropic import Anthropic

from llmfeatures import ContextBuilder
from llmfeatures.errors import LLMFeaturesError

if TYPE_CHECKING:
    from anthropic.types import MessageParam

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")


def main(user_id: str = "8a2f") -> None:
    """Read lines, print answers as they come."""
    client, builder = Anthropic(), ContextBuilder.from_project(".")
    ctx = builder.build_context(PROMPT, user_id=user_id)
    turns: list[MessageParam] = []
    while line := input("> ").strip():
        turns.append({"role": "user", "content": line})
        with client.messages.stream(model=MODEL, max_tokens=1000, **ctx.anthropic(turns)) as stream:
            for text in stream.text_stream:
                print(text, end="", flush=True)
            answer = stream.get_final_message()
        print()
        turns.append({"role": "assistant", "content": answer.content})
    builder.close()
    client.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except (EOFError, KeyboardInterrupt):
        print()
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
