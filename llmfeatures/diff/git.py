"""Files of another revision, read from git's objects: nothing is checked out, and no working tree is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmfeatures.errors import RequestError

_LINK = "120000"
_FILES: Final = ("100644", "100755", _LINK)
_OF_HOOKS: Final = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"})
_LARGEST: Final = 1 << 20
_ALL: Final = 256 << 20
_DATA: Final = frozenset(
    {".parquet", ".csv", ".jsonl", ".ndjson", ".arrow", ".feather", ".db", ".sqlite", ".duckdb", ".gz", ".zst", ".zip"}
)
"""No code is in files that end so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A revision as it was asked for, and the commit that it is."""

    written: str
    commit: str

    @property
    def label(self) -> str:
        """The revision for people, with the commit's first digits."""
        short = self.commit[:9]
        return f"git:{self.written}" if self.written.startswith(short[:7]) else f"git:{self.written} ({short})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of a revision. ``path`` is relative to the folder that was listed, ``size`` in bytes."""

    path: str
    size: int
    blob: str
    link: bool


def revision(folder: Path, written: str) -> Revision:
    """The commit that a revision names, in the repository that a folder lies in.

    Raises:
        RequestError: there is no git, no repository, or no such revision.
    """
    if not written:
        raise RequestError("git: needs a revision, like git:HEAD or git:main")
    _run(folder, "rev-parse", "--git-dir", why=lambda said: _no_repository(folder, said))
    name = f"{written}^{{commit}}"
    commit = _run(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", name, why=lambda _: _unknown(folder, written)
    )
    return Revision(written=written, commit=commit.decode().split()[-1])


def listed(folder: Path, at: Revision) -> list[Listed]:
    """The files below a folder at a revision, in order; none where the folder was not there. No submodules."""
    found = _run(folder, "ls-tree", "-r", "-l", "-z", at.commit)
    made: list[Listed] = []
    for entry in found.split(b"\0"):
        head, _, path = entry.partition(b"\t")
        fields = head.decode().split()
        if len(fields) == 4 and fields[0] in _FILES:
            link = fields[0] == _LINK
            made.append(Listed(path=os.fsdecode(path), size=int(fields[3]), blob=fields[2], link=link))
    return made


def contents(folder: Path, files: list[Listed]) -> dict[str, bytes]:
    """The bytes of files by path, as they are in the repository."""
    asked = "".join(f"{one.blob}\n" for one in files).encode()
    answer = _run(folder, "cat-file", "--batch", given=asked)
    made: dict[str, bytes] = {}
    at = 0
    for one in files:
        head = answer.index(b"\n", at)
        size = int(answer[at:head].split()[-1])
        made[one.path] = answer[head + 1 : head + 1 + size]
        at = head + size + 2
    return made


def _run(
    folder: Path, *arguments: str, given: bytes | None = None, why: Callable[[str], RequestError] | None = None
) -> bytes:
    git = shutil.which("git")
    if git is None:
        raise RequestError("git is not installed, and git:REV needs it; install it, or give a file or a version")
    # a hook's variables name its repository relative to another folder
    environment = {name: value for name, value in os.environ.items() if name not in _OF_HOOKS}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(  # noqa: S603  the arguments are ours, and the revision stands after --end-of-options
        [git, "-C", str(folder), *arguments], input=given or b"", capture_output=True, check=False, env=environment
    )
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise why(said) if why is not None else RequestError(f"git {arguments[0]} failed: {said}")
    return done.stdout


def _no_repository(folder: Path, said: str) -> RequestError:
    if "not a git repository" in said:
        return RequestError(f"{folder} is in no git repository, so there is no git:REV; give a file or a version")
    return RequestError(f"git cannot read the repository of {folder}: {said}")


def _unknown(folder: Path, written: str) -> RequestError:
    try:
        _run(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    except RequestError:
        return RequestError(f"unknown revision {written!r}: the repository has no commit yet")
    return RequestError(
        f"unknown revision {written!r}; give a branch, a tag or a commit that is here (a shallow clone lacks older "
        "ones: git fetch --unshallow)"
    )


def write_out(folder: Path, at: Revision, into: Path) -> None:
    """Write the files below a folder at a revision, as far as code may need them, into another folder: no data, no
    large files, and no links out of it.

    Raises:
        RequestError: the folder was not there, or the files are too many.
    """
    wanted = [one for one in listed(folder, at) if one.size <= _LARGEST and Path(one.path).suffix not in _DATA]
    if not wanted:
        raise RequestError(f"the project was not there at {at.label}; give a later revision")
    if sum(one.size for one in wanted) > _ALL:
        raise RequestError(f"the project's files at {at.label} are more than {_ALL >> 20} MiB beside its data")
    found = contents(folder, wanted)
    links = {one.path for one in wanted if one.link}
    for path, data in found.items():
        place = into / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path not in links:
            place.write_bytes(data)
        elif (place.parent / os.fsdecode(data)).resolve().is_relative_to(into.resolve()):
            place.symlink_to(os.fsdecode(data))
