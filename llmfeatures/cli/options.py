"""Options that several verbs share, and what a person types for join keys and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from llmfeatures.project import Project
    from llmfeatures.types import DType

ProjectOption = Annotated[Path, typer.Option("--project", metavar="PATH", help="A folder in the project.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", metavar="T", help="Read history as of this moment; ISO 8601, naive is UTC.")
]
ClockOption = Annotated[
    str | None,
    typer.Option(
        "--clock",
        metavar="CLOCK",
        help="In history, which rows count: known (true and arrived, the default) or event (true).",
    ),
]
NobodyOption = Annotated[
    bool, typer.Option("--nobody", help="Nobody is known: every join key that is not given is None.")
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(
        "--release",
        metavar="ID",
        help="The prompt as a release has it: an id, active or previous; then: the one of the time.",
    ),
]
LiveDocumentsOption = Annotated[
    bool,
    typer.Option(
        "--live-documents", help="In history, take what a retriever has now, where it does not know what was there."
    ),
]
HERE = Path()


def split_pairs(words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The plain words, and the ``name=value`` ones as a mapping.

    Raises:
        RequestError: a name is given twice.
    """
    from llmfeatures.errors import RequestError

    plain: list[str] = []
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            plain.append(word)
        elif name in pairs:
            raise RequestError(f"{name} is given twice; give it once")
        else:
            pairs[name] = value
    return plain, pairs


def parse_pairs(pairs: Mapping[str, str], dtypes: Mapping[str, DType], what: str) -> dict[str, Any]:
    """The canonical values of ``name=value`` words, each by its dtype.

    Args:
        what: what takes these names, for the error about an unknown one: ``prompt 'recommender'``.

    Raises:
        RequestError: a name is unknown, or a value does not fit.
    """
    from llmfeatures.errors import InvalidValueError, RequestError, did_you_mean

    values: dict[str, Any] = {}
    for name, written in pairs.items():
        if name not in dtypes:
            raise RequestError(f"{what} takes no {name!r}{did_you_mean(name, dtypes)}")
        try:
            values[name] = dtypes[name].parse(written)
        except InvalidValueError as error:
            raise RequestError(f"{name} is of type {dtypes[name]}: {error}") from None
    return values


def note_blank(values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Say which join keys are given as blank text: legal, but mostly a variable of the shell that is not set."""
    from llmfeatures.cli import terminal

    for name in keys:
        if isinstance(value := values.get(name), str) and not value.strip():
            terminal.note(f"{name}= is given without a value, and is looked up as empty text; --nobody is for nobody")


def with_keys(values: Mapping[str, Any], keys: Mapping[str, DType], *, nobody: bool) -> dict[str, Any]:
    """The values with every join key: with ``nobody``, those that are not given are None.

    Raises:
        RequestError: a join key is not given.
    """
    from llmfeatures.errors import RequestError

    absent = [name for name in keys if name not in values]
    if absent and not nobody:
        raise RequestError(f"{absent[0]} is required; give {absent[0]}=VALUE, or --nobody when nobody is known")
    return {**dict.fromkeys(absent), **values}


def at_release(project: Project, release: str | None, as_of: datetime | None) -> Project:
    """The project with the prompts of the release that an option names, if it does; a note says when bytes may differ.

    Raises:
        RequestError: ``then`` without a moment.
        ReleaseError: no release was active at the moment, or the release cannot be rendered here.
    """
    from llmfeatures.cli import terminal
    from llmfeatures.clock import iso
    from llmfeatures.errors import ReleaseError, RequestError
    from llmfeatures.releases.rebuilding import caution

    if release is None:
        return project
    if release == "then":
        if as_of is None:
            raise RequestError("--release then goes with --as-of, the moment; give it, or the id of a release")
        found = project.releases.active_at(as_of)
        if found is None:
            first = next(iter(project.releases.activations()), None)
            when = "none ever was" if first is None else f"the first is of {first.at}"
            raise ReleaseError(f"no release was active at {iso(as_of)}; {when}")
        release = found
    made = project.at_release(release)
    said = None if made.release is None else caution(made.release)
    if said is not None:
        terminal.note(said)
    return made


def clock_name(clock: str | None, as_of: str | None) -> str:
    """The clock of a read that history answers when there is an ``--as-of``.

    Raises:
        RequestError: a clock is given for a read of now.
    """
    from llmfeatures.errors import RequestError

    if clock is not None and as_of is None:
        raise RequestError("--clock goes with --as-of; give a moment, or leave it out")
    return clock or "known"
