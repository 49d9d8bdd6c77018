"""Where a project's configuration is: found without what it takes to check it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from llmfeatures.errors import ConfigError

FILE = "llmfeatures.toml"
STATE = ".llmfeatures"
"""The state folder, unless the configuration says otherwise."""


class Tables(NamedTuple):
    """The sections of a configuration: the folder that they are found in, the file's name, and what it says."""

    root: Path
    file: str
    data: dict[str, Any]


def find_tables(path: str | Path) -> Tables | None:
    """The sections of the nearest configuration upwards; None where there is none.

    Raises:
        ConfigError: a file cannot be read.
    """
    for folder in upwards(path):
        if (folder / FILE).is_file():
            return Tables(folder, FILE, _read(folder / FILE))
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file():
            tool: object = _read(pyproject).get("tool")
            found = cast("dict[str, Any]", tool).get("llmfeatures") if isinstance(tool, dict) else None
            if found is not None:
                if not isinstance(found, dict):
                    raise ConfigError("pyproject.toml: [tool.llmfeatures] is a table of sections")
                return Tables(folder, "pyproject.toml", cast("dict[str, Any]", found))
    return None


def upwards(path: str | Path) -> Iterator[Path]:
    """The folder, or file, itself and all that it is in."""
    start = Path(path).resolve()
    yield start
    yield from start.parents


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from None
