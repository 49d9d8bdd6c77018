"""The releases of a project, as its state keeps them: found by id, by version of a prompt, and by moment."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Final

from llmfeatures.clock import as_utc, stamp
from llmfeatures.errors import FormatError, ReleaseError, RequestError, UnknownNameError
from llmfeatures.ports import ActivationRecord, StateStore
from llmfeatures.releases.content import SHOWN, PromptVersion, Release, read, written

ACTIVE: Final = "active"
PREVIOUS: Final = "previous"
_SHORTEST: Final = 4
"""Fewer digits of an id are no prefix of one."""
_PATIENCE: Final = 30.0
"""Seconds that somebody who changes the active release waits for another one who does."""
_ALONE: Final = "releases"


class Releases:
    """The releases in a project's state. What is read is kept in memory: a release never changes."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._read = lru_cache(64)(self._read_one)

    def ids(self) -> Sequence[str]:
        """The ids of all releases, sorted."""
        return self._state.releases()

    def activations(self) -> Sequence[ActivationRecord]:
        """When which release was made the active one, oldest first."""
        return self._state.activations()

    def active_id(self) -> str | None:
        """The id of the active release; None when there is none."""
        records = self._state.activations()
        return records[-1].release if records else None

    def active(self) -> Release | None:
        """The active release; None when there is none.

        Raises:
            FormatError: it is damaged, or of another format.
        """
        identity = self.active_id()
        return None if identity is None else self.get(identity)

    def previous_id(self) -> str:
        """The release that was active before the one that is.

        Raises:
            ReleaseError: there is none.
        """
        records = self._state.activations()
        others = [one.release for one in records if one.release != records[-1].release]
        if not others:
            raise ReleaseError("there is no release before the active one; llmfeatures apply --list shows all")
        return others[-1]

    def get(self, identity: str) -> Release:
        """The release of this whole id.

        Raises:
            UnknownNameError: there is none.
            FormatError: it is damaged, or of another format.
        """
        return self._read(identity)

    def find(self, named: str) -> Release:
        """The release that ``named`` means: an id, a prefix of one, ``active`` or ``previous``.

        Raises:
            UnknownNameError: there is none.
            RequestError: several ids begin so.
            ReleaseError: no release is active, or none was before it.
            FormatError: it is damaged, or of another format.
        """
        if named == PREVIOUS:
            return self.get(self.previous_id())
        if named == ACTIVE:
            found = self.active()
            if found is None:
                raise ReleaseError("no release is active; llmfeatures apply makes one of the files")
            return found
        ids = self.ids()
        return self.get(_unique("release", named, ids))

    def find_version(self, prompt: str, prefix: str) -> PromptVersion:
        """The version of a prompt that begins so, from the newest release that holds it.

        Raises:
            UnknownNameError: no release holds one.
            RequestError: several begin so.
        """
        versions: dict[str, Release] = {}
        for release in self.newest_first():
            found = release.prompts.get(prompt)
            if found is not None:
                versions.setdefault(found.version, release)
        version = _unique(f"version of prompt {prompt!r}", prefix, list(versions))
        release = versions[version]
        kept = release.prompts[prompt]
        return PromptVersion(
            prompt=prompt,
            version=version,
            source=kept.source,
            partials={name: release.partials[name] for name in kept.partials},
            release=release,
        )

    def newest_first(self) -> list[Release]:
        """All releases, the last that was created first."""
        return sorted(map(self.get, self.ids()), key=lambda one: (one.created, one.id), reverse=True)

    def active_at(self, moment: datetime) -> str | None:
        """The id of the release that was active at a moment (UTC), None before the first. A release counts from the
        moment of its activation on."""
        found: str | None = None
        for record in self._state.activations():
            if as_utc(record.at) > moment:
                break
            found = record.release
        return found

    def add(self, release: Release) -> None:
        """Keep a release, if it is not kept already. It is not the active one by that."""
        data = written(release)
        if not self._is_kept(release):
            self._state.add_release(release.id, data)

    def activate(self, identity: str, *, now: datetime, message: str = "") -> None:
        """Make a release the active one, from ``now`` on. The caller is `alone`.

        Raises:
            UnknownNameError: there is none of this id.
            FormatError: it is damaged, or of another format.
        """
        self.get(identity)
        records = self._state.activations()
        at = now if not records else max(now, as_utc(records[-1].at))  # a clock that was set back changes no order
        self._state.activate(ActivationRecord(release=identity, at=stamp(at), message=message))

    @contextmanager
    def alone(self) -> Generator[None]:
        """While no other process changes which release is active.

        Raises:
            ReleaseError: another one does, for too long.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._state.alone(_ALONE) as is_alone:
                if is_alone:
                    yield
                    return
            if time.monotonic() > deadline:
                raise ReleaseError("another process changes the active release; try again when it is done")
            time.sleep(0.02)

    def _read_one(self, identity: str) -> Release:
        kept = self._state.release(identity)
        if kept is None:
            raise UnknownNameError("release", identity[:SHOWN], (one[:SHOWN] for one in self.ids()))
        return read(kept, identity)

    def _is_kept(self, release: Release) -> bool:
        try:
            return self.get(release.id).id == release.id
        except (UnknownNameError, FormatError):  # a damaged one is written again
            return False


def find_version(state: StateStore, prompt: str, prefix: str) -> PromptVersion:
    """The version of a prompt that begins with ``prefix``, from the releases that a project's state holds.

    Raises:
        UnknownNameError: no release holds one.
        RequestError: several begin so.
        FormatError: a release is damaged, or of another format.
    """
    return Releases(state).find_version(prompt, prefix)


def _unique(kind: str, prefix: str, known: Sequence[str]) -> str:
    whole = prefix.lower()
    found = [one for one in known if one.startswith(whole)]
    if found and len(whole) < _SHORTEST:
        raise RequestError(f"{prefix!r} is too short for a {kind}; write {_SHORTEST} digits of it, or more")
    if len(found) > 1:
        noun, _, rest = kind.partition(" ")
        several = " ".join(filter(None, (f"{noun}s", rest)))
        choices = ", ".join(one[:16] for one in found[:4])
        raise RequestError(f"several {several} begin with {prefix}: {choices}; write more of it")
    if not found:
        raise UnknownNameError(kind, prefix, (one[:SHOWN] for one in known))
    return found[0]
