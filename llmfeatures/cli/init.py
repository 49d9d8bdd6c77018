"""``llmfeatures init``: a new project that works at once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; made if it is not there.")] = HERE,
) -> None:
    """Make a new project that works at once.

    It has a registry, a prompt with tests, a tiny history and a spine. Nothing is overwritten.
    """
    from llmfeatures.cli.scaffold import GITIGNORE, gitignore, scaffold
    from llmfeatures.errors import RequestError

    files = scaffold(project_name(folder))
    blocked = in_the_way(folder, files)
    if blocked:
        raise RequestError(f"nothing was written, {', '.join(blocked)} would be overwritten; choose another folder")
    try:
        ignored = gitignore(folder)
        write_files(folder, files)
        if ignored is not None:
            (folder / GITIGNORE).write_bytes(ignored)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}; choose another folder") from None
    for name in [*files, *([] if ignored is None else [GITIGNORE])]:
        terminal.write(f"wrote {folder / name}")
    terminal.write(f"\nNext:\n{next_commands(folder)}")


def project_name(folder: Path) -> str:
    """The project's name: the folder's, with what a namespace should not have taken out."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-") or "project"


def in_the_way(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """What exists already and would be overwritten, or would no longer count."""
    if folder.exists() and not folder.is_dir():
        return [str(folder)]
    blocked = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    blocked += [name for name in ("prompts", "data") if (folder / name).exists() and not (folder / name).is_dir()]
    pyproject = folder / "pyproject.toml"
    if pyproject.is_file() and "[tool.llmfeatures" in pyproject.read_text(encoding="utf-8", errors="replace"):
        blocked.append("[tool.llmfeatures] in pyproject.toml")
    return blocked


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, or none: what was written is taken back when one fails."""
    written: list[Path] = []
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                written.append(path)
                file.write(data)
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise


def next_commands(folder: Path) -> str:
    """What to type next."""
    commands = [
        "llmfeatures materialize",
        "llmfeatures context welcome user_id=ada",
        "llmfeatures context welcome user_id=ada --as-of 2026-01-06 --diff",
        "llmfeatures history welcome --spine requests.csv --out evals.jsonl",
        "llmfeatures check",
        "llmfeatures test",
    ]
    if folder.resolve() != Path.cwd():
        commands.insert(0, f"cd {shlex.quote(str(folder))}")
    return "\n".join(f"  {one}" for one in commands)
