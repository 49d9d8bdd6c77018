"""``llmfeatures context``: a finished prompt: for somebody, for three examples, or now against a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import (
    HERE,
    AsOfOption,
    ClockOption,
    JsonOption,
    LiveDocumentsOption,
    NobodyOption,
    ProjectOption,
    ReleaseOption,
    at_release,
    clock_name,
    note_blank,
    parse_pairs,
    split_pairs,
    with_keys,
)

if TYPE_CHECKING:
    from llmfeatures.builder import ContextBuilder
    from llmfeatures.context import PromptContext
    from llmfeatures.ports import ClockName
    from llmfeatures.project import Project
    from llmfeatures.prompt_plan import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options ask for."""

    as_of: datetime | None
    clock: str
    explain: bool
    user: str | None
    as_json: bool
    live_documents: bool = False


def context(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's name.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="Join keys and inputs; without a key, examples."),
    ] = None,
    nobody: NobodyOption = False,
    as_of: AsOfOption = None,
    clock: ClockOption = None,
    diff: Annotated[bool, typer.Option("--diff", help="With --as-of: what changed between then and now.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Mark what was interpolated, and say where each value comes from.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Check and show it again whenever a file of it is saved; q ends it.")
    ] = False,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Every moment at which this prompt changed, and the words that did.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="T", help="With --timeline: from when on, like 30d (the default) or a moment."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="With --timeline: to which moment; now without.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="TEXT", help="Add a user message at the end.")] = None,
    release: ReleaseOption = None,
    live_documents: LiveDocumentsOption = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show the finished prompt for somebody, now or as of a moment.

    Without a join key it shows three examples: a typical entity, an unknown one, and one with nulls or missing values.
    """
    from llmfeatures.builder import moment
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project

    words, written = split_pairs(pairs or [])
    if words:
        raise RequestError(f"{words[0]!r} is no NAME=VALUE; write join keys and inputs like user_id=8a2f")
    _check_together(diff=diff, explain=explain, watch=watch, timeline=timeline, as_of=as_of, since=since, until=until)
    wanted = Wanted(
        as_of=None if as_of is None else moment("--as-of", as_of),
        clock=clock_name(clock, since or until or as_of or ("now" if timeline else None)),
        explain=explain,
        user=user,
        as_json=as_json,
        live_documents=live_documents,
    )
    loaded = Project.load(project)
    if watch and release is not None:
        raise RequestError("--watch shows the files as they are saved, and --release one that is kept; leave one out")
    loaded = at_release(loaded, release, wanted.as_of)
    if watch:
        from llmfeatures.cli.watch import watch_prompt

        watch_prompt(loaded, prompt, written, wanted, nobody=nobody)
        return
    builder = loaded.builder()
    plan = builder.plan(prompt)
    given = parse_pairs(written, plan.parameters, f"prompt {prompt!r}")
    keys = plan.features.parameters
    note_blank(given, keys)
    if timeline:
        from llmfeatures.cli.timeline import show_timeline

        values = with_keys(given, keys, nobody=nobody)
        show_timeline(loaded, prompt, values, since=since or "30d", until=until, clock=wanted.clock, as_json=as_json)
        return
    if keys and not nobody and not any(name in given for name in keys):
        if diff:
            raise RequestError(f"--diff compares one prompt; give {next(iter(keys))}=VALUE, or --nobody")
        show_examples(loaded, builder, plan, given, wanted)
        return
    values = with_keys(given, keys, nobody=nobody)
    if diff:
        show_diff(builder, prompt, values, wanted)
    else:
        show_one(build(builder, prompt, values, wanted), wanted)


def _check_together(
    *, diff: bool, explain: bool, watch: bool, timeline: bool, as_of: str | None, since: str | None, until: str | None
) -> None:
    """Refuse options that do not go with each other."""
    from llmfeatures.errors import RequestError

    if diff and as_of is None:
        raise RequestError("--diff needs --as-of T, the moment to compare with")
    if timeline and as_of is not None:
        raise RequestError("--timeline shows all moments; give --since T and --until T instead of --as-of")
    if (since or until) and not timeline:
        raise RequestError("--since and --until go with --timeline")
    ways = [name for name, given in (("--diff", diff), ("--watch", watch), ("--timeline", timeline)) if given]
    if len(ways) > 1 or (timeline and explain):
        raise RequestError(f"{ways[0]} and {[*ways, '--explain'][1]} do not go together; leave one of them out")


def build(builder: ContextBuilder, prompt: str, values: Mapping[str, Any], wanted: Wanted) -> PromptContext:
    """The prompt that the options ask for."""
    return builder.build_context(
        prompt, as_of=wanted.as_of, clock=wanted.clock, _live_documents=wanted.live_documents, **values
    )


def show_one(made: PromptContext, wanted: Wanted) -> None:
    """One prompt: its text, or all of it as JSON."""
    if wanted.as_json:
        terminal.write_json(context_json(made, wanted))
        return
    if wanted.explain:
        from llmfeatures.cli.explained import write_explained

        write_explained(made, wanted.user)
    else:
        terminal.write(prompt_text(made, wanted.user))
    note_unavailable(made)


def show_diff(builder: ContextBuilder, prompt: str, values: Mapping[str, Any], wanted: Wanted) -> None:
    """The prompt as of the moment against the prompt now."""
    then = build(builder, prompt, values, wanted)
    now = builder.build_context(prompt, **values)
    if wanted.as_json:
        terminal.write_json({"then": context_json(then, wanted), "now": context_json(now, wanted)})
        return
    write_diff(then, now, wanted.user)
    if wanted.explain:
        terminal.write(f"\n{then.explain()}\n{now.explain()}")
    note_unavailable(now)


def write_diff(then: PromptContext, now: PromptContext, user: str | None = None) -> None:
    """Both prompts, line by line, the changed words visible with and without colours."""
    from llmfeatures.cli import worddiff
    from llmfeatures.clock import iso

    coloured = terminal.coloured()
    if then.messages == now.messages:
        terminal.note(f"the prompt of {iso(then.as_of)} is the same as now")
    else:
        terminal.write(f"--- {iso(then.as_of)}\n+++ {iso(now.as_of)}")
    for line in worddiff.diff_lines(prompt_text(then, user), prompt_text(now, user)):
        if coloured:
            terminal.write_styled(worddiff.styled(line))
        else:
            terminal.write(worddiff.plain(line))


def show_examples(
    project: Project, builder: ContextBuilder, plan: PromptPlan, given: Mapping[str, Any], wanted: Wanted
) -> None:
    """The prompt for three examples; where it cannot be built, why."""
    from llmfeatures.cli.users import three_examples

    at = wanted.as_of or project.clock()
    examples = three_examples(project, plan.features, at, cast("ClockName", wanted.clock))
    inputs = with_placeholders(plan, given)
    made: list[dict[str, Any]] = []
    for number, one in enumerate(examples):
        if not wanted.as_json:
            terminal.heading(f"{one.label}: {'there is none' if one.keys is None else terminal.keys_text(one.keys)}")
        if one.keys is not None:
            made.append(_show_example(builder, plan, {**one.keys, **inputs}, wanted, one.label))
        if not wanted.as_json and number < len(examples) - 1:
            terminal.write()
    if wanted.as_json:
        terminal.write_json(made)


def _show_example(
    builder: ContextBuilder, plan: PromptPlan, values: Mapping[str, Any], wanted: Wanted, label: str
) -> dict[str, Any]:
    from llmfeatures.errors import RenderError
    from llmfeatures.types import json_value

    shown: dict[str, Any] = {"example": label, "given": json_value(values), "context": None, "error": None}
    try:
        made = build(builder, plan.name, values, wanted)
    except RenderError as error:
        shown["error"] = str(error)
        if not wanted.as_json:
            terminal.write(f"no prompt: {' '.join(str(error).split())}")
        return shown
    shown["context"] = context_json(made, wanted)
    if not wanted.as_json:
        terminal.write(status_line(made))
        show_one(made, wanted)
    return shown


def status_line(made: PromptContext) -> str:
    """The status of each feature of a prompt, and of its documents."""
    parts = [f"{name} {found.status}" for name, found in made.features.items()]
    parts += [
        f"{name} {f'{one.kept} found' if one.status == 'found' else one.status}"
        for name, one in made.manifest.retrievals.items()
    ]
    return ", ".join(parts)


def with_placeholders(plan: PromptPlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, with a visible placeholder of the right type for each that is required and not given."""
    from llmfeatures.prompts.file import ABSENT
    from llmfeatures.types import placeholder

    absent = {name: one for name, one in plan.inputs.items() if name not in given and one.default is ABSENT}
    if absent:
        terminal.note(f"placeholders stand for {', '.join(absent)}; give {next(iter(absent))}=VALUE for a real one")
    return {
        **{name: given[name] for name in plan.inputs if name in given},
        **{name: placeholder(name, one.dtype, one.max_chars) for name, one in absent.items()},
    }


def note_unavailable(made: PromptContext) -> None:
    """Say that features could not be read or documents not be searched, and why."""
    for name, one in made.manifest.retrievals.items():
        if one.status == "unavailable":
            terminal.note(f"documents {name} unavailable: {one.problem}")
    names = [name for name, found in made.features.items() if found.status == "unavailable"]
    if names:
        reason = made.manifest.problem or "the online store was never filled; run llmfeatures materialize"
        terminal.note(f"{', '.join(names)} unavailable: {reason}")


def messages_of(made: PromptContext, user: str | None) -> Sequence[Mapping[str, Any]]:
    """The messages, with the user's at the end."""
    return cast("Sequence[Mapping[str, Any]]", made.chat(user)["messages"])


def prompt_text(made: PromptContext, user: str | None = None) -> str:
    """The text of a prompt of one system message; else each message after a line with its role."""
    messages = messages_of(made, user)
    if [one["role"] for one in messages] == ["system"]:
        return str(messages[0]["content"])
    return "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in messages)


def context_json(made: PromptContext, wanted: Wanted) -> dict[str, Any]:
    """All of a prompt as JSON; with a user's message, also the messages for the chat; explained, what it is made of."""
    data: dict[str, Any] = made.model_dump(mode="json")
    if wanted.user is not None:
        data["chat"] = dict(made.chat(wanted.user))
    if wanted.explain:
        from llmfeatures.explain import explain_json, explained

        data["explain"] = explain_json(explained(made))
    return data
