"""A client of ``llmfeatures mcp``: what an agent, or a desktop application, does with it.

    python mcp_client.py 8a2f

It starts the server as a program of its own, bound to one viewer, and asks for prompts, tools and the registry. Needs
``pip install 'llmfeatures[mcp]'``.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT and FEATURE are two of its names, of an
entity ``user`` with the join key ``user_id``: ``recommender`` and ``watch_count_30d`` are the sample's, that is this
repository's.
"""

from __future__ import annotations

import asyncio
import sys

from mcp import Client, MCPError, StdioServerParameters
from mcp.types import TextContent

PROMPT, FEATURE = "recommender", "watch_count_30d"


async def show(user_id: str) -> None:
    """Print a finished prompt, and the answer of a tool."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "llmfeatures", "mcp", "--bind", f"user_id={user_id}", "--log-format", "off"],
    )
    async with Client(server) as client:
        print("prompts:", ", ".join(one.name for one in (await client.list_prompts()).prompts))
        print("tools:", ", ".join(one.name for one in (await client.list_tools()).tools))
        print("resources:", ", ".join(one.uri for one in (await client.list_resources()).resources))
        prompt = await client.get_prompt(PROMPT)
        for message in prompt.messages:
            if isinstance(message.content, TextContent):
                role = (message.content.meta or {}).get("llmfeatures/role", message.role)
                print(f"[{role}] {message.content.text}")
        found = await client.call_tool("get_user_features", {"names": [FEATURE]})
        if found.is_error:
            print("error:", *(one.text for one in found.content if isinstance(one, TextContent)))
        else:
            print(found.structured_content["features"][FEATURE]["value"])
        refused = await client.call_tool("get_user_features", {"names": [FEATURE], "user_id": "b13c"})
        print("refused:", refused.is_error)


def main(user_id: str = "8a2f") -> int:
    """As `show`; what the server says no to is one line, and the exit code 1."""
    error: BaseException | None = None
    try:
        asyncio.run(show(user_id))
    except* MCPError as group:  # the client's tasks give it in groups
        error = group
    if error is None:
        return 0
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
