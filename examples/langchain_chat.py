"""LangChain: a context's messages are what its chat models take, as pairs of a role and a text.

    python langchain_chat.py 8a2f "What should I watch tonight?"

Needs ``pip install langchain-openai``. Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is
one of its prompts, of a ``user_id``: ``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import os
import sys

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

from llmfeatures import ContextBuilder, PromptContext
from llmfeatures.errors import LLMFeaturesError

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")


def messages(ctx: PromptContext, turns: list[BaseMessage]) -> list[BaseMessage | tuple[str, str]]:
    """The prompt, then the turns of the chat."""
    return [*[(one["role"], one["content"]) for one in ctx.messages], *turns]


def main(user_id: str = "8a2f", *questions: str) -> None:
    """Ask one question after the other, each with the answers so far."""
    builder, model = ContextBuilder.from_project("."), ChatOpenAI(model=MODEL)
    ctx = builder.build_context(PROMPT, user_id=user_id)
    turns: list[BaseMessage] = []
    for question in questions or ("What should I watch tonight?",):
        turns.append(HumanMessage(question))
        answer = model.invoke(messages(ctx, turns))
        turns.append(answer)
        print(answer.text)
    builder.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
