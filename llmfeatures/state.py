"""The project's state in a local folder: records of runs and of failures, format 2, one JSON file per record; and
releases, one file each, with one file of format 1 that says when which was made the active one.

Format 1 of records had no ``keys`` in the record of a run.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from llmfeatures.errors import ConfigError, FormatError
from llmfeatures.files import replacing
from llmfeatures.ports import ActivationRecord, FailureRecord, RunRecord

FORMAT = 2
ACTIVATIONS_FORMAT = 1
FAILURES = 20
"""Records of failures that are kept of each view."""


class FolderState:
    """`StateStore` in a folder, which is made on the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = folder / "runs"
        self._failures = folder / "failures"
        self._releases = folder / "releases"
        self._activations = folder / "releases" / "activations"

    def add_run(self, record: RunRecord) -> None:
        """Keep a record, durably and atomically."""
        _keep(self._runs, record.started, record.view, record)

    def runs(self, view: str | None = None, *, newest_first: bool = False) -> Iterator[RunRecord]:
        """Records, oldest first.

        Raises:
            FormatError: a record was written by another version of the format.
        """
        for name in sorted(_names(self._runs), reverse=newest_first):
            if view in (None, _view_of(name)):
                yield RunRecord(**_fields(self._runs / name, RunRecord))

    def last_runs(self) -> dict[str, RunRecord]:
        """The newest record of each view, by the view's name; no other is read.

        Raises:
            FormatError: a record was written by another version of the format.
        """
        newest = {_view_of(name): name for name in sorted(_names(self._runs))}
        return {view: RunRecord(**_fields(self._runs / name, RunRecord)) for view, name in newest.items()}

    def add_failure(self, record: FailureRecord) -> None:
        """Keep a record, durably and atomically; of each view, the last twenty stay."""
        _keep(self._failures, record.at, record.view, record)
        mine = [name for name in _names(self._failures) if _view_of(name) == record.view]
        for name in sorted(mine)[:-FAILURES]:
            (self._failures / name).unlink(missing_ok=True)  # another process may have been faster

    def failures(self, view: str | None = None) -> Iterator[FailureRecord]:
        """Records, oldest first.

        Raises:
            FormatError: a record was written by another version of the format.
        """
        for name in sorted(_names(self._failures)):
            path = self._failures / name
            if view in (None, _view_of(name)) and path.exists():  # else one that was too old by now
                yield FailureRecord(**_fields(path, FailureRecord))

    def add_release(self, release: str, content: bytes) -> None:
        """Keep the content of a release under its id, durably and atomically. It replaces what was kept under it."""
        _make(self._releases)
        with replacing(self._releases / f"{release}.json") as part:
            part.write_bytes(content)

    def release(self, release: str) -> bytes | None:
        """The content of a release; None when there is none of this id."""
        try:
            return (self._releases / f"{release}.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(
                f"release {release} cannot be read in {self._releases}: {error.strerror}; correct [project] state"
            ) from None

    def releases(self) -> list[str]:
        """The ids of all releases, sorted."""
        return sorted(name.removesuffix(".json") for name in _names(self._releases))

    def activate(self, record: ActivationRecord) -> None:
        """Make a release the active one, durably and atomically."""
        records = [asdict(one) for one in (*self.activations(), record)]
        _make(self._releases)
        with replacing(self._activations) as part:
            text = json.dumps({"format": ACTIVATIONS_FORMAT, "activations": records}, ensure_ascii=False, indent=1)
            part.write_text(text + "\n", encoding="utf-8")

    def activations(self) -> list[ActivationRecord]:
        """When which release was made the active one, oldest first.

        Raises:
            FormatError: they were written by another version of the format, or the file is damaged.
        """
        try:
            written: Any = json.loads(self._activations.read_bytes())
            found = written["format"]
            records = [ActivationRecord(**one) for one in written["activations"]] if found == ACTIVATIONS_FORMAT else []
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ConfigError(f"{self._activations} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise FormatError(
                f"{self._activations} is damaged, so nobody knows which release is active; restore it from a backup, "
                "or remove it and run llmfeatures apply"
            ) from None
        if found != ACTIVATIONS_FORMAT:
            raise FormatError(
                f"{self._activations} has format {found}, this version reads {ACTIVATIONS_FORMAT}; upgrade llmfeatures"
            )
        return records

    def activation_mark(self) -> object:
        """The identity of the file of activations, which each `activate` replaces by another."""
        try:
            status = self._activations.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    @contextmanager
    def alone(self, what: str) -> Generator[bool]:
        """For the length of a block, be the only one of all processes that does ``what``; False when another is at it.

        Raises:
            ConfigError: the folder cannot be written or locked.
        """
        path = self._folder / f"{what}.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}; correct [project] state") from None
        try:
            yield _locked(handle, path)
        finally:
            os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        raise ConfigError(f"{path} cannot be locked here; give [project] state a folder on a local disk") from None
    return True


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; correct [project] state") from None


def _keep(folder: Path, at: str, view: str, record: RunRecord | FailureRecord) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"records cannot be kept in {folder}: {error.strerror}; correct [project] state, then materialize again"
        ) from None
    name = f"{at.replace(':', '')}-{view}-{uuid.uuid4().hex[:8]}.json"
    with replacing(folder / name) as part:
        part.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n", encoding="utf-8")


def _names(folder: Path) -> list[str]:
    """The names of the records in a folder, in no order. There may be very many."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(".json")]  # noqa: PTH208  names are enough
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"records cannot be read in {folder}: {error.strerror}; correct [project] state") from None


def _view_of(name: str) -> str:
    """The view in the name of a record: between the moment, which has two hyphens, and eight digits."""
    return name.split("-", 3)[-1].rpartition("-")[0]


def _fields(path: Path, kind: type[RunRecord | FailureRecord]) -> dict[str, Any]:
    """The fields of a record.

    Raises:
        FormatError: it has another format, or is no record.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = fields.pop("format", None)
    except (OSError, ValueError, AttributeError, TypeError):
        fields, found = dict[str, Any](), FORMAT
    if found == 1 and kind is RunRecord:
        fields.setdefault("keys", None)
    elif found not in (1, FORMAT):
        raise FormatError(f"record {path.name} has format {found}, this version reads {FORMAT}; upgrade llmfeatures")
    if set(fields) != {one.name for one in dataclass_fields(kind)}:
        raise FormatError(f"record {path} cannot be read; remove it")
    return fields
