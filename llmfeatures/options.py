"""The types that the options of `Project` take, by name, so that a caller's mistake is told before anything is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final, cast

from llmfeatures.errors import RequestError

_TAKES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "prompt": ((str,), "a prompt's name"),
    "users": ((int,), "a whole number from 1 on"),
    "every": ((timedelta, str), "a timedelta or text such as 1d"),
    "since": ((timedelta, str), "a timedelta or text such as 30d"),
    "where": ((str,), "one SQL expression as text, such as watch_count_30d > 20"),
    "inputs": ((Mapping,), "a mapping from an input's name to its value"),
    "sample": ((int,), "a whole number of rows, from 1 on"),
    "stratify": ((str,), "the name of a column"),
    "target": ((str,), "the name of a column"),
    "label": ((str,), "text such as last_genre@+7d"),
    "seed": ((int,), "a whole number"),
    "without": ((str, Sequence), "a feature's name, or a list of them"),
}


def check_options(given: Mapping[str, object], *, needed: Collection[str] = ("prompt", "seed")) -> None:
    """Check the types of options. None is an option that is not given, except for those that are ``needed``.

    Raises:
        RequestError: one is of another type; the message names it, the type it has and what it takes.
    """
    for name, value in given.items():
        if value is None and name not in needed:
            continue
        types, said = _TAKES[name]
        if isinstance(value, bool) or not isinstance(value, types):
            raise RequestError(f"{name} is {said}, not {'None' if value is None else type(value).__name__}")
        if isinstance(value, Mapping):
            for key in cast("Mapping[object, object]", value):
                if not isinstance(key, str):
                    raise RequestError(f"{name} is {said}, and {key!r} is no name")
