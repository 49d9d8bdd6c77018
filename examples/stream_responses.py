"""One answer of OpenAI's responses API, printed as it comes.

    python stream_responses.py 8a2f "What should I watch tonight?"

A stream that ends early raises nothing in the client: what says that an answer is whole is its last event. Needs
``pip install openai``.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is one of its prompts, of a ``user_id``:
``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI

from llmfeatures import ContextBuilder
from llmfeatures.errors import LLMFeaturesError

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")


def main(user_id: str = "8a2f", question: str = "What should I watch tonight?") -> int:
    """Print the answer; the exit code is 1 when it was cut off."""
    client, builder = OpenAI(), ContextBuilder.from_project(".")
    ctx = builder.build_context(PROMPT, user_id=user_id)
    last = ""
    for event in client.responses.create(model=MODEL, stream=True, **ctx.responses(question)):
        last = event.type
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    print()
    builder.close()
    client.close()
    if last != "response.completed":
        print(f"the answer is not whole: its last event is {last or 'none'}", file=sys.stderr)
    return int(last != "response.completed")


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3]))
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
