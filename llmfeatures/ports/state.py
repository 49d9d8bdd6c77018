# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What keeps a project's records: of runs, failures and releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One completed materialization of a view. Times are stamps. ``known_up_to``: rows created up to then were read;
    ``keys`` counts the entity keys that the source held in all by ``until``, None when they were not counted.
    ``readable_from``: from then on the online store showed them."""

    view: str
    full: bool
    until: str
    known_up_to: str
    started: str
    readable_from: str
    schema_hash: str
    rows_read: int
    keys_written: int
    keys: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """Something that failed for a view. ``at`` is a stamp, ``verb`` is ``materialize`` or ``push``, ``message`` one
    sentence without values."""

    view: str
    at: str
    verb: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRecord:
    """A release was made the active one. ``at`` is a stamp, ``message`` what was said about it."""

    release: str
    at: str
    message: str = ""


class StateStore(Protocol):
    """The project's state outside both stores: records of runs and of failures, and releases."""

    def add_run(self, record: RunRecord) -> None:
        """Keep a record, durably and atomically."""
        ...

    def runs(self, view: str | None = None, *, newest_first: bool = False) -> Iterable[RunRecord]:
        """Records, oldest first; read as they are asked for. All are kept: they say when what was online."""
        ...

    def last_runs(self) -> Mapping[str, RunRecord]:
        """The newest record of each view, by the view's name."""
        ...

    def add_failure(self, record: FailureRecord) -> None:
        """Keep a record, durably and atomically. At least the last twenty of each view are kept."""
        ...

    def failures(self, view: str | None = None) -> Iterable[FailureRecord]:
        """Records, oldest first."""
        ...

    def add_release(self, release: str, content: bytes) -> None:
        """Keep the content of a release under its id, durably and atomically. It replaces what was kept under it."""
        ...

    def release(self, release: str) -> bytes | None:
        """The content of a release; None when there is none of this id."""
        ...

    def releases(self) -> Sequence[str]:
        """The ids of all releases, sorted. All are kept: they say which prompts there were."""
        ...

    def activate(self, record: ActivationRecord) -> None:
        """Make a release the active one, durably and atomically: the record is the last of `activations` from now on.
        The caller sees to it that nobody else does so meanwhile (`alone`)."""
        ...

    def activations(self) -> Sequence[ActivationRecord]:
        """When which release was made the active one, oldest first: the last is active now. All are kept."""
        ...

    def activation_mark(self) -> object:
        """What is another after each `activate`, by whomever; it costs one system call."""
        ...

    def alone(self, what: str) -> AbstractContextManager[bool]:
        """For the length of a block, be the only one of all processes that does ``what``; False, at once, when another
        one is at it. A process that dies gives it back."""
        ...


PUSHED_EVENT, PUSHED_CREATED = "_event_timestamp", "_created_timestamp"
PUSHED_RECEIVED, PUSHED_ID = "_received_timestamp", "_push_id"
"""Columns of pushed rows beside the join keys and features: no name of a registry begins with an underscore."""
