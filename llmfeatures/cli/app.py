"""The verbs, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO

import typer

from llmfeatures.cli import (
    apply,
    check,
    context,
    demo,
    diff,
    features,
    history,
    init,
    interrupts,
    listing,
    materialize,
    mcp,
    push,
    serve,
    status,
    terminal,
    test,
)
from llmfeatures.errors import ConfigError, LLMFeaturesError, RequestError, UnknownNameError

FOUND_PROBLEMS, BAD_USAGE, INTERRUPTED = 1, 2, 130
_USAGE_ERRORS: Any = typer.BadParameter.__base__  # its name differs between versions of typer
_BAD_USAGE = (RequestError, UnknownNameError, ConfigError)

app = typer.Typer(
    name="llmfeatures",
    help="Typed, fresh facts about a user in an LLM's prompt, and the exact prompt of any moment in history.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from llmfeatures.version import __version__

        terminal.write(f"llmfeatures {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    call: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    if call.invoked_subcommand is None:
        terminal.write(call.get_help())
        raise typer.Exit(BAD_USAGE)


def _verb(name: str, function: Callable[..., None], *examples: str) -> None:
    shown = "\n".join(f"  llmfeatures {one}".rstrip() for one in examples)
    app.command(name, epilog=f"\b\nExample:\n{shown}")(function)


_verb("init", init.init, "init my-project", "init")
_verb("demo", demo.demo, "demo", "demo --redis redis://localhost:6379/0")
_verb("list", listing.list_, "list", "list prompts", "list --json")
_verb(
    "check",
    check.check,
    "check",
    "check prompts/home.prompt.j2 --fix",
    "check --explain LF012",
    "check --project services/recommender --format github",
)
_verb("test", test.cases, "test", "test recommender --update", "test -k heavy_viewer", "test --coverage")
_verb(
    "apply",
    apply.apply,
    'apply --message "Shorter greeting"',
    "apply --dry-run",
    "apply --list",
    "apply --rollback previous",
)
_verb("materialize", materialize.materialize, "materialize", "materialize segment activity --full")
_verb("status", status.status, "status", "status --json")
_verb(
    "push",
    push.push,
    "push taste rows.jsonl",
    "push taste rows.parquet --push-id nightly-2026-05-07",
    "push taste -",
)
_verb(
    "features",
    features.features,
    "features user_segment last_genre user_id=8a2f",
    "features user_segment user_id=8a2f --as-of 2026-05-05T12:00Z",
    'features status --row "tenant_id=1,user_id=2" --row "tenant_id=1,user_id=3"',
)
_verb(
    "context",
    context.context,
    "context recommender user_id=8a2f",
    'context support/answer user_id=8a2f question="What is new?"',
    "context recommender user_id=8a2f --as-of 2026-05-05T12:00Z --diff",
    "context recommender user_id=8a2f --explain",
    "context recommender user_id=8a2f --watch",
    "context recommender user_id=8a2f --timeline --since 7d",
    "context recommender",
)
_verb(
    "history",
    history.history,
    "history recommender --spine requests.parquet --out evals.jsonl",
    "history recommender --spine requests.csv --out evals.parquet --clock event",
    "history recommender --users 200 --every 1d --since 30d --label last_genre@+7d --out evals.parquet",
    "history recommender --spine requests.parquet --out evals.jsonl --format promptfoo --split train=0.8,test=0.2",
)
_verb(
    "diff",
    diff.diff,
    "diff recommender",
    "diff recommender --against git:main --spine requests.parquet --price-per-million 2.50",
    "diff recommender --against old.prompt.j2 --users 500 --since 7d --html diff.html",
    'diff recommender --against git:main --markdown comment.md --fail-if "changed > 10%" --fail-if "errors > 0"',
)
_verb(
    "mcp",
    mcp.mcp,
    "mcp --bind user_id=8a2f",
    "mcp --bind user_id=8a2f --any title_id",
    "mcp --http --port 8080",
)
app.add_typer(serve.app, name="serve")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Every error of the user's is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        _escape_unknown(stream)
    try:
        with interrupts.watched():
            result = app(list(arguments), prog_name="llmfeatures", standalone_mode=False)
            sys.stdout.flush()
    except _USAGE_ERRORS as error:
        terminal.error(_usage(error))
        return BAD_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close_broken_pipe()
        return FOUND_PROBLEMS
    except Exception as error:  # noqa: BLE001  (what nobody foresaw is raised again)
        return INTERRUPTED if interrupts.pressed() else told(error)
    return result if isinstance(result, int) else 0


def told(error: Exception) -> int:
    """Say what went wrong; the exit code. What nobody foresaw is raised again."""
    if isinstance(error, LLMFeaturesError):
        terminal.error(str(error))
        return BAD_USAGE if isinstance(error, _BAD_USAGE) else FOUND_PROBLEMS
    if isinstance(error, OSError):
        terminal.error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return FOUND_PROBLEMS
    raise error


def _usage(error: Any) -> str:
    call = error.ctx
    message = error.format_message().rstrip(".")
    stop = "" if message.endswith("?") else ";"
    return message if call is None else f"{message}{stop} see {call.command_path} --help"


def _escape_unknown(stream: TextIO) -> None:
    """A character that the output's encoding lacks is escaped, and is no reason to fail."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def _close_broken_pipe() -> None:
    """Whoever read the output has left: let nothing try to flush to it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
