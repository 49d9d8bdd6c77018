# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""``llmfeatures demo``: the main job on the sample project, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import sample, terminal

if TYPE_CHECKING:
    from llmfeatures.builder import ContextBuilder
    from llmfeatures.project import Project

SHOWN_CHARACTERS = 160


def demo(
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="Use this Redis online; the demo's keys are removed.")
    ] = None,
    sample_from: Annotated[Path | None, typer.Option("--sample", metavar="FOLDER", hidden=True)] = None,
) -> None:
    """Run the main job on a sample project, step by step.

    It shows features, history, a finished prompt, and the same prompt two days earlier.
    It needs no server and no key, works in a temporary copy, and leaves nothing behind.
    """
    with sample.sample_project(sample_from or sample.sample_folder(), redis) as project:
        builder = project.builder()
        _registered(project)
        _point_in_time(project)
        _materialized(project)
        _prompt_now(builder)
        _prompt_earlier(builder)
        _prompt_unknown(builder)
        _eval_set(project)
    _where_next()


def _registered(project: Project) -> None:
    from llmfeatures.cli.listing import list_features

    terminal.heading("1. What is registered: features with types, and the prompts that use them")
    list_features(project, as_json=False)


def _point_in_time(project: Project) -> None:
    from llmfeatures.cli.features import found_features
    from llmfeatures.plan import plan_references

    terminal.write()
    terminal.heading("2. What was known at a moment: a point-in-time join over the Parquet history")
    names = [one.feature.name for one in project.registry.features()]
    plan = plan_references(project.registry, names)
    found = found_features(project, plan, _spine(project), "known")
    rows = [
        (user, at, *(terminal.value_text(one.value) if one.status == "present" else one.status for one in row.values()))
        for (user, at), row in zip(sample.MOMENTS, found, strict=True)
    ]
    terminal.table(("user_id", "event_timestamp", *names), rows)


def _spine(project: Project) -> Any:
    from llmfeatures.cli.features import spine_of
    from llmfeatures.clock import as_utc

    plan = project.prompts.plan(sample.PROMPT).features
    return spine_of(plan, [({"user_id": user}, as_utc(at)) for user, at in sample.MOMENTS])


def _materialized(project: Project) -> None:
    from llmfeatures.cli.materialize import show_report

    terminal.write()
    terminal.heading("3. Materialize: the newest row of every user, into the online store")
    with terminal.view_progress() as progress:
        report = project.materialize(progress=progress)
    show_report(report)


def _prompt_now(builder: ContextBuilder) -> None:
    terminal.write()
    terminal.heading(f'4. The prompt now: build_context("{sample.PROMPT}", user_id="{sample.USER}")')
    terminal.write(builder.build_context(sample.PROMPT, user_id=sample.USER).text)


def _prompt_earlier(builder: ContextBuilder) -> None:
    from llmfeatures.cli.context import write_diff

    terminal.write()
    terminal.heading(f"5. The same prompt two days earlier: as_of={sample.EARLIER}, against now")
    then = builder.build_context(sample.PROMPT, user_id=sample.USER, as_of=sample.EARLIER)
    write_diff(then, builder.build_context(sample.PROMPT, user_id=sample.USER))


def _prompt_unknown(builder: ContextBuilder) -> None:
    from llmfeatures.cli.context import status_line

    terminal.write()
    terminal.heading(f'6. Somebody new: user_id="{sample.UNKNOWN}"; the prompt file says what stands in')
    made = builder.build_context(sample.PROMPT, user_id=sample.UNKNOWN)
    terminal.write(f"{made.text}\n({status_line(made)})")


def _eval_set(project: Project) -> None:
    terminal.write()
    terminal.heading("7. An eval set: the prompts of three moments in history, as chat JSONL")
    out = project.config.root / "evals.jsonl"
    summary = project.history(sample.PROMPT, _spine(project)).write(out)
    for line in out.read_text(encoding="utf-8").splitlines():
        terminal.write(_abbreviated(line))
    terminal.write(f"({summary.rows} rows, {summary.errors} errors)")


def _abbreviated(line: str) -> str:
    """A line of JSONL whose messages are cut in the middle, where the viewer is described in the sample."""
    messages = json.loads(line)["messages"]
    for message in messages:
        text = message["content"]
        if len(text) > SHOWN_CHARACTERS:
            message["content"] = f"{text[:SHOWN_CHARACTERS]}…"
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _where_next() -> None:
    terminal.write()
    terminal.write("Nothing was left behind. To start a project of your own: llmfeatures init my-project")
