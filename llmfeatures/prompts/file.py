"""Prompt files: ``NAME.prompt.j2``, an optional YAML header between ``---`` lines, then Jinja.

The header sets policy; which features a prompt uses is read from its template. Unknown keys are errors with a position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmfeatures.errors import PromptError, UnknownNameError
from llmfeatures.prompts.header import (
    ABSENT,
    HEADER_KEYS,
    TOKENIZERS,
    Budget,
    Documents,
    Header,
    Input,
    Policy,
    read_header,
)
from llmfeatures.prompts.header_yaml import HeaderError, Keys, Loaded, Place, load

__all__ = [
    "ABSENT",
    "SUFFIX",
    "TOKENIZERS",
    "Budget",
    "Documents",
    "Header",
    "HeaderError",
    "Input",
    "Policy",
    "PromptFile",
    "header_errors",
    "parse_prompt",
    "prompt_names",
    "prompt_path",
    "read_prompt",
    "read_text",
]

SUFFIX = ".prompt.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """A prompt file, read and split. ``path`` is as shown in messages; ``body_line`` counts the lines before
    the body. ``positions`` says where each key of the header begins, ``values`` where its value is."""

    name: str
    path: str
    header: Header
    body: str
    body_line: int
    positions: Mapping[Keys, tuple[int, int]]
    values: Mapping[Keys, Place] = field(default_factory=dict[Keys, Place])
    readings: Mapping[Keys, str] = field(default_factory=dict[Keys, str])

    def error(self, message: str, *keys: str) -> PromptError:
        """An error at a place in the header, named by its keys: an option's value, or the key of anything else."""
        if len(keys) > 2 and (place := self.values.get(keys)) is not None:
            return HeaderError(message, path=self.path, place=place)
        return self.key_error(message, *keys)

    def key_error(self, message: str, *keys: str) -> PromptError:
        """An error at a key of the header."""
        found = self.positions.get(keys)
        place = None if found is None else Place(*found, found[0], found[1] + len("".join(keys[-1:])))
        return HeaderError(message, path=self.path, place=place)

    def reading(self, *keys: str) -> str:
        """How YAML read an unquoted word of the header, and what to write for the other meaning, as the end of a
        message; empty where it read what is written."""
        said = self.readings.get(keys)
        return f"; {said}" if said else ""


def prompt_names(folder: Path) -> list[str]:
    """The names of all prompts in a folder, subfolders included, sorted; partials in ``_shared`` are no prompts."""
    found = (
        path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for path in folder.rglob(f"*{SUFFIX}")
        if path.is_file()
    )
    return sorted(name for name in found if not any(part.startswith(("_", ".")) for part in name.split("/")))


def prompt_path(folder: Path, name: str) -> Path:
    """The file of a prompt.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnknownNameError("prompt", repr(name), prompt_names(folder))
    path = folder / f"{name}{SUFFIX}"
    plain = all(part and not part.startswith((".", "_")) for part in name.split("/"))
    try:
        found = plain and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise UnknownNameError("prompt", name[:80], prompt_names(folder))
    return path


def read_prompt(folder: Path, name: str, *, shown: str | None = None) -> PromptFile:
    """Read a prompt file from a prompts folder.

    Raises:
        UnknownNameError: there is no such prompt.
        PromptError: the header is wrong, or the file is no UTF-8.
    """
    where = shown or f"{folder.name}/{name}{SUFFIX}"
    source = read_text(folder, name, shown=where)
    return parse_prompt(source, name=name, path=where)


def read_text(folder: Path, name: str, *, shown: str | None = None) -> str:
    """The text of a prompt file. Raises as `read_prompt`, but for the header."""
    path = prompt_path(folder, name)
    where = shown or f"{folder.name}/{name}{SUFFIX}"
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError("a prompt file is UTF-8 text; save it as UTF-8", path=where) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror}", path=where) from None


def parse_prompt(source: str, *, name: str, path: str) -> PromptFile:
    """A prompt file from its text.

    Raises:
        PromptError: the header is wrong; of several mistakes, the first one.
    """
    file, errors = _parsed(source, name, path)
    if errors:
        raise errors[0]
    return file


def header_errors(source: str, *, path: str) -> tuple[PromptError, ...]:
    """All that is wrong with the header of a prompt file's text, in its order."""
    try:
        return _parsed(source, "", path)[1]
    except PromptError as error:
        return (error,)


def _parsed(source: str, name: str, path: str) -> tuple[PromptFile, tuple[HeaderError, ...]]:
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    written, body, body_line = _split(source, path)
    loaded = load(written, path=path, choices=HEADER_KEYS) if written else Loaded()
    header, errors = read_header(loaded, path)
    file = PromptFile(
        name=name,
        path=path,
        header=header,
        body=body,
        body_line=body_line,
        positions={keys: (place.line, place.column) for keys, place in loaded.keys.items()},
        values=loaded.values,
        readings=loaded.readings,
    )
    return file, tuple(sorted(errors, key=lambda one: (one.line or 0, one.column or 0)))


def _split(source: str, path: str) -> tuple[str, str, int]:
    """Header text, body, and how many lines come before the body."""
    lines = source.split("\n")
    if lines[0].rstrip() != "---":
        _refuse_late_header(lines, path)
        return "", source, 0
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "\n".join(lines[1:number]), "\n".join(lines[number + 1 :]), number + 1
    raise PromptError("the header has no end; close it with a line of ---", path=path, line=1)


def _refuse_late_header(lines: list[str], path: str) -> None:
    """A header below the first line would be printed into the prompt, with its policies unread."""
    for number, line in enumerate(lines[:10], start=1):
        following = lines[number].partition(":")[0] if number < len(lines) else ""
        if line.strip().startswith("---") and following in HEADER_KEYS:
            raise PromptError("a header begins on line 1; remove what stands before it", path=path, line=number)
