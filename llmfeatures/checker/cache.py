"""Reports of earlier runs, in one file of the state folder, each under the content of all that decides it.

The file is a convenience: one that is absent, broken or of another version is ignored, and of several processes that
write it the last one wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from llmfeatures.checker.engine import PromptReport
from llmfeatures.checker.findings import finding_of
from llmfeatures.checker.rules import RULES
from llmfeatures.checker.warm import code_digest, packages_installed, tokens_installed
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.files import replacing
from llmfeatures.registry import Registry
from llmfeatures.version import __version__

FORMAT: Final = 1
"""Raised when the file, or what the checker finds, changes between releases of the library."""


class CheckCache:
    """Reports by prompt. Without a file it is empty and keeps nothing."""

    def __init__(self, file: Path | None = None, registry: Registry | None = None) -> None:
        self._file = file
        self._base = "" if registry is None else _base(registry)
        self._held: dict[str, Any] = {} if file is None else _load(file, self._base)
        self._changed = False

    def get(self, name: str, digest: str, digest_of: Callable[[str], str]) -> PromptReport | None:
        """The report of a prompt whose content has this digest, if its partials are the same too."""
        entry = self._held.get(name, {})
        try:
            if entry["digest"] != digest or any(digest_of(one) != old for one, old in entry["partials"].items()):
                return None
            return _report(entry["report"])
        except (KeyError, TypeError, AttributeError, ValueError):
            return None

    def put(self, name: str, digest: str, partials: Mapping[str, str], report: PromptReport) -> None:
        """Remember a report. One that looked for a partial in vain is not kept: it depends on what is not there."""
        if self._file is None:
            return
        self._changed = True
        if any(finding.code in ("LF003", "LF004") for finding in report.findings):
            self._held.pop(name, None)
        else:
            self._held[name] = {"digest": digest, "partials": dict(partials), "report": _report_json(report)}

    def save(self, names: list[str]) -> None:
        """Write what is remembered of these prompts, if anything is new. An unwritable folder is no error."""
        if self._file is None or not (self._changed or set(self._held) - set(names)):
            return
        kept = {name: self._held[name] for name in names if name in self._held}
        text = json.dumps({"format": FORMAT, "base": self._base, "prompts": kept}, separators=(",", ":"))
        with suppress(OSError, LLMFeaturesError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as part:
                part.write_text(text, encoding="utf-8")
        self._changed = False


def _load(file: Path, base: str) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
        if data["format"] == FORMAT and data["base"] == base and isinstance(data["prompts"], dict):
            return data["prompts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}


def _base(registry: Registry) -> str:
    """What decides every report beside the files: the registry, the library, and whether tokens can be counted."""
    tables = {
        "entities": [one.model_dump(mode="json") for one in registry.entities],
        "views": [
            [one.name, one.entity.name, [[feature.name, str(feature.dtype)] for feature in one.features]]
            for one in registry.views
        ],
        "on_demand": [
            [
                one.name,
                one.entity.name,
                str(one.dtype),
                list(one.parameters),
                {k: str(v) for k, v in one.inputs.items()},
            ]
            for one in registry.on_demand
        ],
        "retrievers": [
            [
                one.name,
                None if one.entity is None else one.entity.name,
                {name: str(dtype) for name, dtype in one.metadata.items()},
                one.embedder is not None or one.function is not None,
            ]
            for one in registry.retrievers
        ],
        "rules": list(RULES),
        "version": __version__,
        "code": code_digest(),
        "tokens": tokens_installed(),
        "packages": packages_installed(),
    }
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def _report_json(report: PromptReport) -> dict[str, Any]:
    return {
        "findings": [asdict(finding) for finding in report.findings],
        "features": sorted(report.features),
        "partials": sorted(report.partials),
        "inputs_read": sorted(report.inputs_read),
        "retrievers": sorted(report.retrievers),
    }


def _report(data: Mapping[str, Any]) -> PromptReport:
    return PromptReport(
        findings=tuple(map(finding_of, data["findings"])),
        features=frozenset(data["features"]),
        partials=frozenset(data["partials"]),
        inputs_read=frozenset(data["inputs_read"]),
        retrievers=frozenset(data["retrievers"]),
    )
