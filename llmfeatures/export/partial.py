# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""An export under way: the folder ``.NAME.partial`` beside its place, which a later run of the same goes on with.

It has the files as far as they are, in a folder ``files``, and ``journal.json``, which says how much of them counts.
The journal is replaced atomically, after the files are on disk: whatever happens, it says what is there. The files are
moved to their places at the end, all together; should that be interrupted, the next run moves the rest.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson
import pyarrow as pa

from llmfeatures.errors import RequestError, SpineError
from llmfeatures.export.writing import ResumableExporter, Writing
from llmfeatures.files import check_place, sync, unwritable

if sys.platform != "win32":
    import fcntl

FORMAT: Final = 1
"""The number of the journal's layout."""
CHECKPOINT_SECONDS = 15.0
"""How long a run goes on before it has on disk what it did: what a killed one loses."""
_JOURNAL = "journal.json"
_LOCK = "lock"
_FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """How far an export is.

    ``made_of`` has a hash of each thing that decides its bytes, by its name. ``rows`` are those of the spine that are
    done; ``progress`` is what the caller counts along. ``files`` has the state of each `Writing`, by name. ``moves``
    are the complete files, as names in the folder and beside it, once there are any.
    """

    made_of: Mapping[str, str]
    rows: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, Any] = field(default_factory=dict[str, Any])
    moves: Sequence[tuple[str, str]] = ()
    format: int = FORMAT


class Partial:
    """The folder of an export under way.

    ``earlier`` is what an interrupted run of the same left, None where there is none; ``changed`` names what is another
    now where one left something else.
    """

    def __init__(self, path: Path, folder: Path, made_of: Mapping[str, str] | None, *, resume: bool) -> None:
        self.folder = folder
        self._files = folder / _FILES
        self._files.mkdir(exist_ok=True)
        self.earlier: Journal | None = None
        self.changed: tuple[str, ...] = ()
        self.reached: Journal | None = None
        self._path, self._made_of = path, made_of
        self._since = time.monotonic()
        found = _journal(folder)
        if found is None:
            return
        known = made_of or {}
        self.changed = tuple(name for name in {**found.made_of, **known} if found.made_of.get(name) != known.get(name))
        if resume and made_of is not None and not self.changed:
            self.earlier = self.reached = found

    @property
    def kept(self) -> int:
        """How many rows of the spine a later run need not do again, as the journal says."""
        found = _journal(self.folder)
        return 0 if found is None else found.rows

    def begun(self, exporter: ResumableExporter, schema: pa.Schema, path: Path, name: str) -> Writing:
        """What is written to ``path``, under this name, from the start or from where the earlier run left it.

        Raises:
            RequestError: ``path`` is a folder, the format has no form for a column, or what the earlier run left is
                damaged; then it is removed.
        """
        check_place(path)
        if self.earlier is None:
            return exporter.begun(schema, path, self._files, None)
        try:
            return exporter.begun(schema, path, self._files, self.earlier.files[name])
        except (OSError, LookupError, ValueError, TypeError):
            self.refuse()

    def refuse(self) -> NoReturn:
        """Remove what the earlier run left, since nothing can go on with it.

        Raises:
            RequestError: always; it says what to do.
        """
        self.clear()
        raise RequestError(
            f"what an interrupted run left of {self._path} is damaged, and was removed; run it again to begin anew"
        ) from None

    def write(
        self,
        batches: Iterable[pa.RecordBatch],
        writings: Mapping[str, Writing],
        route: Callable[[pa.RecordBatch], Mapping[str, pa.RecordBatch]],
        progress: Callable[[], tuple[int, Mapping[str, Any]]],
    ) -> int:
        """Write all batches, complete the files and move them to their places. Returns how many rows were written.

        Args:
            batches: canonical rows.
            writings: what is written, by name; begun by `begun`.
            route: which rows of a batch go to which of them.
            progress: the spine's rows done after the last batch, and what else to know when the export is gone on with.
        """
        written = 0
        try:
            for batch in batches:
                for name, rows in route(batch).items():
                    written += writings[name].add(rows)
                self._reach(writings, *progress())
                if time.monotonic() - self._since >= CHECKPOINT_SECONDS:
                    self._checkpoint(writings)
            moves: dict[Path, Path] = {}
            for one in writings.values():
                moves.update(one.finish())
        except (RequestError, SpineError):  # it would come again
            self.clear()
            raise
        except BaseException as error:
            with suppress(Exception):  # what cannot be written any more is as of the last time
                self._checkpoint(writings)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self._path)
            raise
        finally:
            for one in writings.values():
                one.close()
        self._move([(part.name, place.name) for part, place in moves.items()])
        return written

    def clear(self) -> None:
        """Remove what there is of an export."""
        self.reached = None
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        for one in self._files.iterdir():
            one.unlink()

    def move_the_rest(self) -> None:
        """Move to their places the complete files that an interrupted run left."""
        if self.earlier is not None:
            self._move(self.earlier.moves)

    def _reach(self, writings: Mapping[str, Writing], rows: int, progress: Mapping[str, Any]) -> None:
        if self._made_of is not None:
            files = {name: one.state() for name, one in writings.items()}
            self.reached = Journal(made_of=self._made_of, rows=rows, progress=progress, files=files)

    def _checkpoint(self, writings: Mapping[str, Writing]) -> None:
        if self.reached is None or not self.reached.rows:
            return
        for one in writings.values():
            one.sync()
        self._record(self.reached)
        self._since = time.monotonic()

    def _record(self, journal: Journal) -> None:
        fresh = self.folder / f"{_JOURNAL}.new"
        fresh.write_bytes(orjson.dumps(asdict(journal), option=orjson.OPT_INDENT_2))
        sync(fresh)
        fresh.replace(self.folder / _JOURNAL)
        sync(self.folder)

    def _move(self, moves: Sequence[tuple[str, str]]) -> None:
        for _, name in moves:
            check_place(self._path.with_name(name))
        if self.reached is not None and (len(moves) > 1 or (self.folder / _JOURNAL).exists()):
            self._record(replace(self.reached, moves=moves))
        for part, name in moves:
            with suppress(FileNotFoundError):  # moved by the run that was interrupted
                (self._files / part).replace(self._path.with_name(name))
        sync(self._path.parent)
        self.clear()


@contextmanager
def partial(path: Path, made_of: Mapping[str, str] | None, *, resume: bool = True) -> Generator[Partial, None, None]:
    """The folder of the export to ``path``, held for one run; it is gone afterwards unless there is something to go on
    with.

    Args:
        path: where the export goes.
        made_of: a hash of each thing that decides its bytes, by name; None when nobody can tell, and then nothing is
            gone on with.
        resume: go on with what an interrupted run left.

    Raises:
        RequestError: the folder of ``path`` cannot be written, or another run is writing the same.
    """
    folder = path.with_name(f".{path.name}.partial")
    try:
        lock = _locked(folder, path)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield Partial(path, folder, made_of, resume=resume)
    finally:
        if not (folder / _JOURNAL).exists():
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path, path: Path) -> int | None:
    """Make the folder if it is not there, and hold it, where one can, until the descriptor that this returns is
    closed."""
    while True:
        folder.mkdir(exist_ok=True)
        if sys.platform == "win32":
            return None
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a run that ended removed the folder just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RequestError(
                f"another run is writing {path} at this moment; wait until it ends, or write to another file"
            ) from None
        except OSError:  # a filesystem without locks
            return lock
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (folder / _LOCK).stat()):
                return lock
        os.close(lock)


def _journal(folder: Path) -> Journal | None:
    """What the journal says; None where there is none that can be read."""
    try:
        found = orjson.loads((folder / _JOURNAL).read_bytes())
        if found.get("format") == FORMAT:
            return Journal(**found)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        pass
    return None
