"""The Redis layout as bytes and script arguments: pure functions of what is asked."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, cast

import hiredis

from llmfeatures.codec import KEY_FIELD, view_field
from llmfeatures.online.rows import FORMAT_FIELD, prefix_of
from llmfeatures.online.wire import ReplyError, out_of_step
from llmfeatures.ports import Read, RowWrite, ViewFields

# hiredis declares its parameters more narrowly than they are.
_pack_command: Callable[[tuple[str, ...]], bytes] = cast("Any", hiredis).pack_command
_LAYOUTS = 4096
_LENGTHS = [b"$%d\r\n" % size for size in range(256)]
SCRIPT_KEYS = 128
"""Entity keys in one script call: the server answers nobody else while a script runs."""
SCRIPT_BYTES = 256 * 1024

Keyed = tuple[str, list[RowWrite]]
"""An entity key and its rows, one per view."""


class Script(NamedTuple):
    """The Lua text of all changes, and its SHA-1, by which the server knows it."""

    text: str
    digest: str


class Call(NamedTuple):
    """The arguments of a script call, after the script itself: how many, and packed."""

    words: int
    packed: bytes

    def of(self, command: str, script: str) -> bytes:
        """The call as the server reads it."""
        return b"*%d\r\n%b%b" % (self.words + 2, bulks(command, script), self.packed)


class Layout:
    """A namespace's keys, and the packed commands that read them."""

    def __init__(self, namespace: str) -> None:
        self.prefix = prefix_of(namespace)
        self.meta_key = self.prefix + "@meta"
        self.meta_request = pack("HGETALL", self.meta_key)
        self.format_request = pack("HGET", self.meta_key, FORMAT_FIELD)
        self._around: dict[tuple[str, ...], tuple[bytes, bytes]] = {}

    def request(self, reads: Sequence[Read]) -> bytes:
        """One HMGET per read, for its fields and the hash's own entity key."""
        packed: list[bytes] = []
        prefix, around = self.prefix, self._around
        for key, fields in reads:
            head, tail = around.get(fields) or self._learn(fields)
            name = (prefix + key).encode()
            size = len(name)
            length = _LENGTHS[size] if size < len(_LENGTHS) else b"$%d\r\n" % size
            packed += (head, length, name, tail)
        return b"".join(packed)

    def call(self, keys: Iterable[str], *arguments: str) -> Call:
        """A script call on entity keys."""
        names = [self.meta_key, *(self.prefix + key for key in keys)]
        words = (str(len(names)), *names, *arguments)
        return Call(len(words), bulks(*words))

    def pattern(self, join_keys: Sequence[str]) -> str:
        """What SCAN matches keys with; it also matches longer entity keys that begin with the same join key."""
        return _glob(f"{self.prefix}{join_keys[0]}:") + "*"

    def _learn(self, fields: tuple[str, ...]) -> tuple[bytes, bytes]:
        if len(self._around) >= _LAYOUTS:
            self._around.clear()
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 3)
        tail = b"\r\n" + b"".join(
            [b"$%d\r\n%b\r\n" % (len(name), name) for name in map(str.encode, (*fields, KEY_FIELD))]
        )
        self._around[fields] = head, tail
        return head, tail


@functools.cache
def script() -> Script:
    """The script of this package."""
    text = importlib.resources.files("llmfeatures.online").joinpath("newest_wins.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def pack(*words: str) -> bytes:
    """A command as the server reads it."""
    return _pack_command(words)


def bulks(*words: str) -> bytes:
    """Words of a command, without their number."""
    packed = _pack_command(words)
    return packed[packed.index(b"\n") + 1 :]


def matched(answers: list[Any], reads: Sequence[Read]) -> list[list[str | None]]:
    """The replies to `Layout.request`, each seen to be its read's own.

    Raises:
        EntityMismatchError: one is of another entity.
    """
    for answer, (key, fields) in zip(answers, reads):  # noqa: B905  strict costs, and `Line.ask` counted them
        if type(answer) is not list:
            raise answer if isinstance(answer, ReplyError) else out_of_step()
        found = cast("list[str | None]", answer)
        if len(found) != len(fields) + 1:
            raise out_of_step()
        owner = found.pop()
        if owner != key and (owner is not None or found.count(None) != len(found)):
            raise out_of_step()
    return answers


def pairs(reply: Any) -> dict[str, str]:
    """A hash from the reply to HGETALL."""
    if isinstance(reply, ReplyError):
        raise reply
    if type(reply) is not list:
        raise out_of_step()
    flat = cast("list[str]", reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def chunks(winners: Mapping[str, Mapping[str, RowWrite]]) -> Iterator[list[Keyed]]:
    """Rows by entity key, in portions of one script call."""
    chunk: list[Keyed] = []
    size = 0
    for key, views in winners.items():
        rows = list(views.values())
        weight = sum(len(value) for row in rows for value in row.values)
        if chunk and (len(chunk) >= SCRIPT_KEYS or size + weight > SCRIPT_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((key, rows))
        size += weight
    if chunk:
        yield chunk


def ttl_arguments(ttls: Mapping[str, timedelta] | None) -> list[str]:
    """How many ttls, and each as stamp field, seconds and microseconds; -1 when there is none."""
    if ttls is None:
        return ["-1"]
    words = [str(len(ttls))]
    for view, ttl in ttls.items():
        words += (view_field(view), str(ttl.days * 86400 + ttl.seconds), str(ttl.microseconds))
    return words


def view_arguments(views: Sequence[ViewFields]) -> list[str]:
    """How many views, and each as stamp field, number of features and features."""
    words = [str(len(views))]
    for view in views:
        words += (view_field(view.name), str(len(view.features)), *view.features)
    return words


def row_arguments(keyed: Sequence[Keyed]) -> list[str]:
    """The views of rows, and then for each entity key: itself, how many rows, and the rows."""
    numbers: dict[ViewFields, str] = {}
    words: list[str] = []
    for key, rows in keyed:
        words += (key, str(len(rows)))
        for row in rows:
            number = numbers.setdefault(row.view, str(len(numbers) + 1))
            words += (number, row.event, row.created, *row.values)
    return view_arguments(list(numbers)) + words


def _glob(text: str) -> str:
    return "".join("\\" + character if character in "*?[]^\\-" else character for character in text)
