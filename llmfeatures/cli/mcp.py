"""``llmfeatures mcp``: prompts, features and documents for agents, over the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from llmfeatures.cli.options import HERE, ProjectOption


def mcp(
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", metavar="KEY=VALUE", help="Whose: bind a join key for all sessions; repeatable."),
    ] = None,
    opened: Annotated[
        list[str] | None,
        typer.Option("--any", metavar="KEY", help="Let calls of tools name any value of this join key; repeatable."),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Over HTTP, at /mcp, instead of standard input.")] = False,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="With --http: where to listen.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="With --http: and on which port.")
    ] = None,
    working: Annotated[
        bool, typer.Option("--working", help="Serve the files as they are now, and no release.")
    ] = False,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="Of the lines on stderr: json, text or off.")
    ] = None,
    project: ProjectOption = HERE,
) -> None:
    """Serve prompts, features and documents to agents over the Model Context Protocol.

    Every prompt is an MCP prompt; features and retrievers are tools, of the entities that --bind names, or an API key
    over HTTP (llmfeatures serve keys new --entity). No call can name another.
    """
    from typing import cast, get_args

    from llmfeatures.errors import ConfigError, RequestError, did_you_mean
    from llmfeatures.mcp import stdio
    from llmfeatures.service.log import LogFormat

    formats = get_args(LogFormat)
    if log_format is not None and log_format not in formats:
        raise RequestError(f"unknown log format {log_format!r}{did_you_mean(log_format, formats)}")
    if not http:
        if host is not None or port is not None:
            raise RequestError("--host and --port go with --http; add it, or leave them out")
        stdio.run(
            project, bind=bind or [], opened=opened or [], working=working, log=cast("LogFormat | None", log_format)
        )
        return
    try:
        from llmfeatures.mcp.http import run
    except ImportError as error:
        if (error.name or "").startswith("llmfeatures"):
            raise
        raise ConfigError(
            "llmfeatures mcp --http needs the MCP SDK, FastAPI and uvicorn; pip install 'llmfeatures[mcp,serve]'"
        ) from None
    given = {"host": host, "port": port, "log": log_format}
    options = {name: value for name, value in given.items() if value is not None}
    run(project, options, bind=bind or [], opened=opened or [], working=working)
