"""An agent that looks up what it needs about a viewer, with OpenAI's tool calls.

    python tools_agent.py 8a2f "How much did I watch last month?"

The tools are the prompt's own features and documents, for the one viewer that is named here: the model has no argument
for another. Needs ``pip install openai``; OPENAI_BASE_URL names another server, OPENAI_MODEL another model.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is one of its prompts, of a ``user_id``:
``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from openai import OpenAI

from llmfeatures import ContextBuilder
from llmfeatures.errors import LLMFeaturesError, UnknownNameError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageFunctionToolCallParam, ChatCompletionMessageParam

    from llmfeatures.tools import Tools

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
ROUNDS = 5


def content(tools: Tools, name: str, arguments: str) -> str:
    """The content of a tool message; that of a tool which the model has made up says which there are."""
    try:
        return tools.call(name, arguments)
    except UnknownNameError as error:
        return json.dumps({"error": {"code": "unknown_tool", "message": str(error)}})


def main(user_id: str = "8a2f", question: str = "How much did I watch last month?") -> None:
    """Ask, answer the model's calls until it has what it needs, and print what it says."""
    client, builder = OpenAI(), ContextBuilder.from_project(".")
    tools = builder.tools(PROMPT, user_id=user_id)
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Answer questions of a viewer. Look up what you need."},
        {"role": "user", "content": question},
    ]
    for _ in range(ROUNDS):
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=tools.chat)
        message = answer.choices[0].message
        calls = [call for call in message.tool_calls or () if call.type == "function"]
        if not calls:
            print(message.content)
            break
        asked: list[ChatCompletionMessageFunctionToolCallParam] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
        messages.append({"role": "assistant", "content": message.content, "tool_calls": asked})
        for call in calls:
            said = content(tools, call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
    else:
        print(f"no answer after {ROUNDS} rounds of calls", file=sys.stderr)
    builder.close()
    client.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except LLMFeaturesError as error:
        sys.exit(f"error: {error}")
