"""The project's state in a local folder: run records. Format 1, one JSON file per run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from llmfeatures.errors import ConfigError, FormatError
from llmfeatures.files import replacing
from llmfeatures.ports import RunRecord

FORMAT = 1


class FolderState:
    """`StateStore` in a folder, which is made on the first write."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"

    def add_run(self, record: RunRecord) -> None:
        """Keep a record, durably and atomically."""
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run records cannot be kept in {self._runs}: {error.strerror}; correct [project] state, then "
                "materialize again"
            ) from None
        name = f"{record.started.replace(':', '')}-{record.view}-{uuid.uuid4().hex[:8]}.json"
        with replacing(self._runs / name) as part:
            part.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n", encoding="utf-8")

    def runs(self, view: str | None = None) -> Iterator[RunRecord]:
        """Records, oldest first.

        Raises:
            FormatError: a record was written by another version of the format.
        """
        for path in sorted(self._runs.glob("*.json")):
            fields = _fields(path)
            found = fields.pop("format", None)
            if found != FORMAT:
                raise FormatError(
                    f"run record {path.name} has format {found}, this version reads {FORMAT}; upgrade llmfeatures"
                )
            if view in (None, fields["view"]):
                yield RunRecord(**fields)


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        names = {one.name for one in dataclass_fields(RunRecord)} | {"format"}
        if fields.get("format") != FORMAT or set(fields) == names:
            return fields
    except (OSError, ValueError, AttributeError):
        pass
    raise FormatError(f"run record {path} cannot be read; remove it") from None
