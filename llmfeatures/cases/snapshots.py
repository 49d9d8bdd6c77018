"""Snapshots: the whole text of a case's prompt, one file each, beside the file of cases."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from llmfeatures.errors import RequestError
from llmfeatures.files import replacing, unwritable
from llmfeatures.prompts.runtime import ROLES

FOLDER: Final = ".snapshots"
"""After the prompt's name: the folder of its snapshots."""
SUFFIX: Final = ".txt"

_ROLE_LINE: Final = re.compile(rf"^(\\*\[(?:{'|'.join(ROLES)})\])$", re.MULTILINE)


def snapshot_path(folder: Path, prompt: str, case: str) -> Path:
    """The file of a case's snapshot in a prompts folder, whether it is there or not."""
    return folder / f"{prompt}{FOLDER}" / f"{case}{SUFFIX}"


def snapshot_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """A prompt as one text: a single system message is itself, others stand after a line with their role.

    Two prompts never have the same text: a line of a message that looks like a role has a backslash before it.
    """
    written = [(str(one["role"]), _ROLE_LINE.sub(r"\\\1", str(one["content"]))) for one in messages]
    if [role for role, _ in written] == ["system"]:
        return written[0][1]
    return "\n\n".join(f"[{role}]\n{content}" for role, content in written)


def read_snapshot(path: Path) -> str | None:
    """The text of a snapshot; None where there is none.

    Raises:
        RequestError: it cannot be read, or is no UTF-8.
    """
    try:
        data = path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is no UTF-8; write it again with llmfeatures test --update") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    return data.replace("\r\n", "\n").removesuffix("\n")  # a checkout may have changed the ends of lines


def write_snapshot(path: Path, text: str) -> None:
    """Write a snapshot, atomically, with LF.

    Raises:
        RequestError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    with replacing(path) as part:
        part.write_bytes(f"{text}\n".encode())


def unused_snapshots(folder: Path, prompt: str, used: Collection[str]) -> list[Path]:
    """The snapshots of a prompt that belong to none of the cases whose ids are given, sorted."""
    return sorted(
        path
        for path in (folder / f"{prompt}{FOLDER}").glob(f"*{SUFFIX}")
        if path.is_file() and path.name.removesuffix(SUFFIX) not in used
    )


def prompts_with_snapshots(folder: Path) -> list[str]:
    """The names of the prompts that have a folder of snapshots, whether there is such a prompt or not; sorted."""
    found = (path for path in folder.rglob(f"*{FOLDER}") if path.is_dir() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix().removesuffix(FOLDER) for path in found)
