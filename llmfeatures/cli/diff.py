"""``llmfeatures diff``: what a change of a prompt does to the prompts of its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, LiveDocumentsOption, ProjectOption, split_pairs

if TYPE_CHECKING:
    from llmfeatures.diff.result import Group, PromptDiff

_GROUPS = 10


def diff(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's name.")],
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="VERSION", help="git:REV, a prompt file, or digits of a version that a release keeps."
        ),
    ] = "git:HEAD",
    spine: Annotated[
        Path | None,
        typer.Option("--spine", metavar="FILE", help="Join keys, event_timestamp and inputs; without, rows are drawn."),
    ] = None,
    users: Annotated[int | None, typer.Option("--users", metavar="N", help="Drawn rows: so many users (100).")] = None,
    every: Annotated[
        str | None, typer.Option("--every", metavar="DURATION", help="Drawn rows: the time between two moments (1d).")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Drawn rows: how far back moments go (30d).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Drawn rows: the last moment (now).")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Drawn rows: a condition on join keys, event_timestamp, features."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=VALUE", help="An input that is no column of the spine; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of what is drawn.")] = 0,
    clock: Annotated[str, typer.Option("--clock", metavar="CLOCK", help="known (the default) or event.")] = "known",
    price: Annotated[
        str | None,
        typer.Option("--price-per-million", metavar="X", help="What a million input tokens cost ([diff] price)."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", metavar="N", min=0, help="Show a pair of each of the N largest groups.")
    ] = None,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown for a pull request; - is stdout.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", metavar="CONDITION", help='Exit code 1 when "changed > 10%", "errors > 0", "tokens > +5%"…'
        ),
    ] = None,
    live_documents: LiveDocumentsOption = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions of a prompt over the same rows of its history.

    Says how many prompts change, by how many tokens and how much money, and how: in groups
    of the same edit, the largest first, with a pair each. The version before is that of the
    last commit unless --against says another. The output holds values of features.
    """
    from llmfeatures.diff.conditions import Condition
    from llmfeatures.errors import RequestError
    from llmfeatures.files import check_place
    from llmfeatures.project import Project
    from llmfeatures.protected import check_outputs, source_files

    conditions = [Condition.of(one) for one in fail_if or ()]
    if as_json and markdown == "-":
        raise RequestError("--json and --markdown - both write to standard output; give --markdown a file")
    _load_tokenizer()
    loaded = Project.load(project)
    named = ((markdown, "the Markdown"), (html, "the page"))
    files = [(Path(one), what) for one, what in named if one is not None and one != "-"]
    for one, _ in files:
        check_place(one)
    kept = source_files(loaded.config.root, loaded.registry)
    if spine is not None:
        kept[spine.resolve()] = "the spine itself"
    check_outputs([(one, what) for one, what in files if not _is_comment(one)], kept)
    made = loaded.diff(
        prompt,
        against,
        spine,
        users=users,
        every=every,
        since=since,
        until=until,
        where=where,
        inputs=_inputs(inputs or ()),
        seed=seed,
        clock=clock,
        price=price,
        live_documents=live_documents,
    )
    if as_json:
        terminal.write_json(made.as_json())
    elif markdown != "-":
        _show(made, 3 if pairs is None else pairs)
    _write(made, markdown, html, pairs)
    held = [one for one in conditions if one.holds(made)]
    for one in held:
        terminal.error(one.said(made))
    if held:
        raise typer.Exit(1)


def _load_tokenizer() -> None:
    """Begin to load the usual vocabulary, which takes half a second, while the rest is prepared."""
    from threading import Thread

    from llmfeatures.tokens import installed, tokenizer

    if installed():
        Thread(target=tokenizer, args=("o200k_base",), daemon=True).start()


def _is_comment(path: Path) -> bool:
    """Whether a file is a comment that an earlier run wrote, which the next one may replace."""
    from llmfeatures.diff.markdown import BEGINNING

    if path.suffix != ".md" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING.encode()


def _inputs(written: Sequence[str]) -> Mapping[str, Any]:
    from llmfeatures.diff.compare import Typed
    from llmfeatures.errors import RequestError

    words, pairs = split_pairs(written)
    if words:
        raise RequestError(f"--input {words[0]!r} is no NAME=VALUE")
    return {name: Typed(value) for name, value in pairs.items()}


def _write(made: PromptDiff, markdown: str | None, html: Path | None, pairs: int | None) -> None:
    from llmfeatures.files import replacing

    if markdown is not None:
        text = made.to_markdown(pairs=5 if pairs is None else pairs)
        if markdown == "-":
            terminal.write(text.rstrip("\n"))
        else:
            with replacing(Path(markdown)) as place:
                place.write_text(text, encoding="utf-8")
            terminal.note(f"Markdown in {markdown}")
    if html is not None:
        with replacing(html) as place:
            place.write_text(made.to_html(pairs=20 if pairs is None else pairs), encoding="utf-8")
        terminal.note(f"a page in {html}")


def _show(made: PromptDiff, pairs: int) -> None:
    """The numbers, then the groups."""
    from llmfeatures.diff import shown

    terminal.heading(f"{made.prompt}: {shown.headline(made)}")
    facts = [
        ("before", f"{made.old.label}, version {made.old.version[:12]}"),
        ("after", f"{made.new.label}, version {made.new.version[:12]}"),
        ("rows", made.spine),
        ("", f"{shown.span_text(made)}, clock {made.clock}" if made.span else ""),
        ("errors", shown.errors_text(made)),
        ("tokens", shown.tokens_text(made)),
        ("", f"of a changed prompt: {shown.change_text(made)}" if shown.change_text(made) else ""),
        ("cost", "" if made.cost is None else shown.cost_text(made.cost)),
        ("", "" if made.cost is None else shown.traffic_text(made)),
    ]
    for name, said in facts:
        if said:
            for number, line in enumerate(_wrapped(said, 9)):
                terminal.write(f"{'' if number else name:9}{line}")
    for one in made.notes:
        terminal.note(one)
    for place, group in enumerate(made.groups[:_GROUPS]):
        _show_group(group, place + 1, made.counts.rows, with_pair=place < pairs)
    rest = made.groups[_GROUPS:]
    if rest:
        total = sum(one.prompts for one in rest)
        terminal.write(f"\nand {shown.counted(len(rest), 'smaller group')} with {shown.counted(total, 'prompt')}")


def _wrapped(said: str, indent: int) -> list[str]:
    """A text in lines that fit the terminal; one line in a pipe."""
    import textwrap

    out = terminal.console()
    if not out.is_terminal:
        return [said]
    return textwrap.wrap(said, max(20, min(out.width, 100) - indent), break_on_hyphens=False) or [""]


def _show_group(group: Group, number: int, rows: int, *, with_pair: bool) -> None:
    from rich.text import Text

    from llmfeatures.cli import worddiff
    from llmfeatures.diff import shown

    out = terminal.console()
    width = out.width - 4 if out.is_terminal else None
    tokens = f", {shown.signed(group.tokens)} tokens" if group.tokens else ""
    terminal.write()
    terminal.write_styled(Text(f"{number}. {shown.group_title(group, rows)}{tokens}", style="bold"))
    for one in shown.edit_texts(group, width):
        terminal.write(f"   {terminal.safe(one)}")
    if not with_pair or group.pair is None:
        return
    pair = group.pair
    keys = terminal.keys_text(pair.keys)
    spent = "" if pair.tokens is None else f", {pair.tokens[0]:,} -> {pair.tokens[1]:,} tokens"
    at = terminal.moment_text(pair.as_of)
    terminal.write_styled(Text(f"   {keys}{' ' if keys else ''}{at}{spent}", style="dim"))
    coloured = terminal.coloured()
    for line in shown.near_changes(shown.pair_lines(pair)):
        if line is None:
            terminal.write("     …")
        elif coloured:
            terminal.write_styled(Text("     ").append_text(worddiff.styled(line)))
        else:
            terminal.write(f"     {worddiff.plain(line)}")
