"""What is wrong with a project beside its prompts: its online store, and the sources of its views.

Looking into sources reads files and needs the offline store, so what was found is kept until one of them changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from llmfeatures.checker.findings import Finding
from llmfeatures.checker.rules import RULES
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.files import named_files, replacing
from llmfeatures.registry import schema_hash
from llmfeatures.schema import FeatureView, ParquetSource, PushSource
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from llmfeatures.ports import OfflineStore

FORMAT: Final = 1
Said = list[tuple[str, str]]
"""Codes and messages."""


class SourceCache:
    """What was said about a thing, by its name, under a key of all that decides it. Without a file, nothing is kept."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._held: Mapping[str, tuple[str, Said]] = {} if file is None else _load(file)
        self._now: dict[str, tuple[str, Said]] = {}

    def said(self, name: str, key: str | None, look: Callable[[], Said]) -> Said:
        """What ``look`` says, or said under the same key. None as the key looks each time."""
        held = self._held.get(name)
        found = held[1] if held is not None and held[0] == key else look()
        if key is not None:
            self._now[name] = key, found
        return found

    def save(self) -> None:
        """Write what is known now. A folder that cannot be written is no error."""
        if self._file is None or self._now == self._held:
            return
        with suppress(OSError, LLMFeaturesError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as part:
                part.write_text(json.dumps({"format": FORMAT, "said": self._now}), encoding="utf-8")


def source_findings(
    views: Iterable[FeatureView], offline: Callable[[], OfflineStore], *, root: Path, pushes: Path, cache: SourceCache
) -> list[Finding]:
    """What is wrong with the views' sources, and what deserves a look.

    Args:
        views: those to look at.
        offline: opens the offline store; not called when nothing has changed since the last time.
        root: what the sources' paths are relative to.
        pushes: the folder of pushed rows.
        cache: what was found earlier.
    """
    return [
        finding(code, f"view {view.name}", message)
        for view in views
        for code, message in cache.said(
            f"view {view.name}", _key(view, root, pushes), lambda view=view: _look(view, offline())
        )
    ]


def finding(code: str, path: str, message: str) -> Finding:
    """A finding about what is no place in a file."""
    return Finding(code=code, severity=RULES[code].severity, path=path, message=message)


def _look(view: FeatureView, offline: OfflineStore) -> Said:
    wrong = offline.check(view)
    return [("LF006", one) for one in wrong] or [("LF007", one) for one in offline.advice(view)]


def _key(view: FeatureView, root: Path, pushes: Path) -> str | None:
    """What decides what is found: the definition, and size and time of each file. None when nobody knows the files."""
    files: list[Path] = []
    if view.batch is not None:
        if not isinstance(view.batch, ParquetSource):
            return None
        files += named_files(view.batch.path, root)
    if isinstance(view.source, PushSource):
        files += sorted(path for path in (pushes / view.name).rglob("*") if path.is_file())
    digest = hashlib.sha256(f"{__version__} {schema_hash(view)} {view!r}".encode())
    try:
        for path in files:
            status = path.stat()
            digest.update(f"\n{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ino}".encode())
    except OSError:  # it has gone meanwhile
        return None
    return digest.hexdigest()


def _load(file: Path) -> Mapping[str, tuple[str, Said]]:
    try:
        data = json.loads(file.read_bytes())
        if data["format"] == FORMAT:
            held = cast("dict[str, tuple[str, Said]]", data["said"])
            return {
                str(name): (str(key), [(code, str(message)) for code, message in said if code in RULES])
                for name, (key, said) in held.items()
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}
