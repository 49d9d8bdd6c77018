"""Files of cases, ``NAME.cases.yaml``: a YAML list of cases, read with the place of everything in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import yaml

from llmfeatures.cases.documents import GivenDocuments, read_documents
from llmfeatures.cases.nodes import Given, Reader, Written
from llmfeatures.clock import as_utc, parse_duration
from llmfeatures.context import Status
from llmfeatures.errors import ConfigError, InvalidValueError, PromptError, did_you_mean
from llmfeatures.prompts.runtime import ROLES

SUFFIX: Final = ".cases.yaml"
KEYS: Final = ("id", "description", "features", "statuses", "ages", "inputs", "keys", "documents", "as_of", "expect")
TEXTS: Final = ("contains", "not_contains", "matches")
EXPECTED: Final = (*TEXTS, "messages", "sections", "max_tokens", "snapshot", "error")
OUTCOMES: Final = ("kept", "cut", "dropped")
STATUSES: Final[tuple[Status, ...]] = ("missing", "null", "expired", "unavailable")
AS_OF: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The moment of a case that gives none."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a text is to contain, not to contain, and to match (regular expressions, searched for)."""

    contains: tuple[Written, ...] = ()
    not_contains: tuple[Written, ...] = ()
    matches: tuple[Written, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedMessage:
    """A message of the prompt, and what its content is to be."""

    role: Written
    texts: Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What a case expects of its prompt; nothing given, that it can be built.

    ``messages`` are all messages in order. ``sections`` are what the budget does with them: kept, cut or dropped.
    ``max_tokens`` counts the contents of all messages. ``error`` is a part of the message of the error that building
    it ends in.
    """

    texts: Texts = field(default_factory=Texts)
    messages: tuple[ExpectedMessage, ...] | None = None
    messages_at: Written | None = None
    sections: Mapping[str, Written] = field(default_factory=dict[str, Written])
    max_tokens: Given | None = None
    snapshot: Written | None = None
    error: Written | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case of a prompt. Values are as YAML reads them: they are checked when it is run.

    A feature that is not given is ``missing``; ``statuses`` gives it another status, and ``ages`` says how old a given
    value is at ``as_of`` (UTC); else it is new. ``documents`` are what retrievers answer; none where they are not
    given.
    """

    id: str
    path: str
    line: int
    column: int
    description: str = ""
    features: Mapping[str, Given] = field(default_factory=dict[str, Given])
    statuses: Mapping[str, tuple[Status, Written]] = field(default_factory=dict[str, tuple[Status, Written]])
    ages: Mapping[str, tuple[timedelta, Written]] = field(default_factory=dict[str, tuple[timedelta, Written]])
    inputs: Mapping[str, Given] = field(default_factory=dict[str, Given])
    keys: Mapping[str, Given] = field(default_factory=dict[str, Given])
    documents: Mapping[str, GivenDocuments] = field(default_factory=dict[str, GivenDocuments])
    as_of: datetime = AS_OF
    expect: Expect = field(default_factory=Expect)


def cases_path(folder: Path, prompt: str) -> Path:
    """The file of a prompt's cases in a prompts folder, whether it is there or not."""
    return folder / f"{prompt}{SUFFIX}"


def prompts_with_cases(folder: Path) -> list[str]:
    """The names of the files of cases in a prompts folder, each a prompt's; sorted."""
    return sorted(
        path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for path in folder.rglob(f"*{SUFFIX}")
        if path.is_file()
    )


def read_cases(folder: Path, prompt: str) -> tuple[Case, ...]:
    """The cases of a prompt; none where it has no file of them.

    Raises:
        PromptError: the file is wrong, with file, line and column.
    """
    path = cases_path(folder, prompt)
    shown = f"{folder.name}/{prompt}{SUFFIX}"
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError:
        raise PromptError("a file of cases is UTF-8 text; save it as UTF-8", path=shown) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror}", path=shown) from None
    return parse_cases(source, path=shown)


def parse_cases(source: str, *, path: str) -> tuple[Case, ...]:
    """Cases from the text of their file.

    Raises:
        PromptError: it is wrong, with line and column.
    """
    reader = Reader(source, path)
    if reader.root is None:
        return ()
    if not isinstance(reader.root, yaml.SequenceNode):
        raise reader.error("a file of cases is a list: begin each with - id: NAME", reader.root)
    cases: dict[str, Case] = {}
    for node in cast("list[yaml.Node]", reader.root.value):
        case = _case(reader, node)
        if case.id.lower() in cases:  # a snapshot is a file, and some file systems know no upper case
            first = cases[case.id.lower()]
            raise reader.error(f"the id {case.id!r} is given twice, also on line {first.line}", node)
        cases[case.id.lower()] = case
    return tuple(cases.values())


def _case(reader: Reader, node: yaml.Node) -> Case:
    if not isinstance(node, yaml.MappingNode):
        raise reader.error("a case is a mapping that begins with its id, like - id: heavy_viewer", node)
    given = reader.mapping(node)
    reader.known(given, KEYS)
    if "id" not in given:
        raise reader.error("a case needs an id, like - id: heavy_viewer", node)
    written = reader.text(given["id"][1], "id")
    if not _ID.fullmatch(written.text):
        raise reader.error(
            "an id has ASCII letters, digits, _ . and -, at most 100; a snapshot is named by it", written
        )
    parts = {key: reader.mapping(given[key][1]) for key in ("features", "statuses", "ages", "inputs", "keys", "expect")
             if key in given}  # fmt: skip
    values = {key: {name: reader.given(one) for name, (_, one) in parts.get(key, {}).items()}
              for key in ("features", "inputs", "keys")}  # fmt: skip
    statuses = {name: _status(reader, name, one) for name, (_, one) in parts.get("statuses", {}).items()}
    for name, (_, at) in statuses.items():
        if name in values["features"]:
            raise reader.error(f"{name} has a value and a status; give one of them", at)
    return Case(
        id=written.text,
        path=reader.path,
        line=reader.place(node)[0],
        column=reader.place(node)[1],
        description=reader.text(given["description"][1], "description").text if "description" in given else "",
        statuses=statuses,
        ages={name: _age(reader, name, one) for name, (_, one) in parts.get("ages", {}).items()},
        documents=read_documents(reader, given["documents"][1]) if "documents" in given else {},
        as_of=_moment(reader, given["as_of"][1]) if "as_of" in given else AS_OF,
        expect=_expect(reader, parts.get("expect", {})),
        **values,
    )


def _status(reader: Reader, name: str, node: yaml.Node) -> tuple[Status, Written]:
    at = reader.scalar(node, f"{name}'s status")
    written = "null" if reader.given(node).value is None else at.text
    for status in STATUSES:
        if written == status:
            return status, at
    hint = "give its value under features" if written == "present" else did_you_mean(written, STATUSES).lstrip("; ")
    raise reader.error(f"{name} has no status {written!r}; {hint}", at)


def _age(reader: Reader, name: str, node: yaml.Node) -> tuple[timedelta, Written]:
    at = reader.scalar(node, f"{name}'s age")
    try:
        return parse_duration(at.text), at
    except ConfigError as error:
        raise reader.error(f"{name}'s age: {error}", at) from None


def _moment(reader: Reader, node: yaml.Node) -> datetime:
    at = reader.scalar(node, "as_of")
    try:
        return as_utc(at.text)
    except InvalidValueError as error:
        raise reader.error(f"as_of is {error}", at) from None


def _expect(reader: Reader, given: Mapping[str, tuple[yaml.Node, yaml.Node]]) -> Expect:
    reader.known(given, EXPECTED)
    if "error" in given and len(given) > 1:
        raise reader.error("a case that expects an error expects nothing else: no prompt is made", given["error"][0])
    messages = _messages(reader, given["messages"][1]) if "messages" in given else None
    if "error" in given and isinstance(given["error"][1], yaml.SequenceNode):
        raise reader.error("error is one text, a part of the error's message", given["error"][1])
    return Expect(
        texts=_texts(reader, given),
        messages=messages,
        messages_at=reader.at(given["messages"][0]) if "messages" in given else None,
        sections=_sections(reader, given["sections"][1]) if "sections" in given else {},
        max_tokens=_count(reader, given["max_tokens"][1]) if "max_tokens" in given else None,
        snapshot=_wanted(reader, given["snapshot"][1]) if "snapshot" in given else None,
        error=reader.texts(given["error"][1], "error")[0] if "error" in given else None,
    )


def _texts(reader: Reader, given: Mapping[str, tuple[yaml.Node, yaml.Node]]) -> Texts:
    found = {key: reader.texts(given[key][1], key) for key in TEXTS if key in given}
    for pattern in found.get("matches", ()):
        try:
            re.compile(pattern.text)
        except re.error as error:
            raise reader.error(f"matches: {pattern.text!r} is no regular expression: {error}", pattern) from None
    return Texts(**found)


def _messages(reader: Reader, node: yaml.Node) -> tuple[ExpectedMessage, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise reader.error("messages is a list of all messages, like [{role: system, contains: [...]}]", node)
    made: list[ExpectedMessage] = []
    for one in cast("list[yaml.Node]", node.value):
        given = reader.mapping(one)
        reader.known(given, ("role", *TEXTS))
        if "role" not in given:
            raise reader.error("a message needs its role", one)
        role = reader.text(given["role"][1], "role")
        if role.text not in ROLES:
            raise reader.error(f"there is no role {role.text!r}{did_you_mean(role.text, ROLES)}", role)
        made.append(ExpectedMessage(role=role, texts=_texts(reader, given)))
    return tuple(made)


def _sections(reader: Reader, node: yaml.Node) -> dict[str, Written]:
    made: dict[str, Written] = {}
    for name, (_, value) in reader.mapping(node).items():
        outcome = made[name] = reader.text(value, f"the outcome of section {name}")
        if outcome.text not in OUTCOMES:
            said = f"a section is {', '.join(OUTCOMES)}, not {outcome.text!r}{did_you_mean(outcome.text, OUTCOMES)}"
            raise reader.error(said, outcome)
    return made


def _count(reader: Reader, node: yaml.Node) -> Given:
    found = reader.given(node)
    if not isinstance(found.value, int) or isinstance(found.value, bool) or found.value < 1:
        raise reader.error("max_tokens is a whole number from 1", node)
    return found


def _wanted(reader: Reader, node: yaml.Node) -> Written | None:
    found = reader.given(node)
    if not isinstance(found.value, bool):
        raise reader.error("snapshot is true or false", node)
    return reader.at(node) if found.value else None
