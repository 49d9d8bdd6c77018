"""The other version of a prompt: of a git revision, of a file, or kept in a release."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmfeatures.compile import compile_plan
from llmfeatures.diff import git
from llmfeatures.errors import PromptError, RequestError, UnknownNameError
from llmfeatures.ports import StateStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.codegen import PARTIALS
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import SUFFIX, parse_prompt
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.registry import Registry
from llmfeatures.releases import find_version

_GIT: Final = "git:"
_VERSION: Final = re.compile(r"[0-9a-f]{6,64}")
CHOICES: Final = "git:REV, a prompt file, or the first 6 or more digits of a version that a release keeps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a prompt to compare; ``label`` says for people which one."""

    label: str
    plan: PromptPlan


def other_version(
    name: str, against: str, *, registry: Registry, folder: Path, state: Callable[[], StateStore]
) -> Version:
    """The version of a prompt that ``against`` names, compiled with the present registry.

    Args:
        name: the prompt's name.
        against: ``git:REV``, the path of a prompt file, or the beginning of a version.
        registry: the present one.
        folder: the project's prompts.
        state: where releases are kept.

    Raises:
        RequestError: it is none of the three, or there is no such revision, file or version.
        PromptError: it cannot be compiled.
    """
    if against.startswith(_GIT):
        return _of_git(name, against.removeprefix(_GIT), registry, folder)
    path = Path(against)
    if path.is_file():
        return _of_file(name, path, registry, folder)
    if _VERSION.fullmatch(against):
        try:
            found = find_version(state(), name, against)
        except UnknownNameError as error:
            raise RequestError(f"--against {against} is no file, and {error}; give {CHOICES}") from None
        plan = compile_plan(registry, found.file(), found.environment())
        label = f"version {found.version[:12]}"
        if plan.version != found.version:
            label += ", with the present registry"
        return Version(label=label, plan=plan)
    raise RequestError(f"--against {against!r} is no file and no version; give {CHOICES}")


def _of_git(name: str, written: str, registry: Registry, folder: Path) -> Version:
    at = git.revision(folder, written)
    texts = prompt_texts(folder, at)
    if name not in texts.prompts:
        raise RequestError(f"prompt {name!r} was not there at {at.label}; give a later revision, or another file")
    try:
        plan = compile_plan(registry, texts.read(name), texts.environment())
    except PromptError as error:
        raise PromptError(
            f"{error.message} (the prompt of {at.label} is compiled with the present registry; "
            f"llmfeatures check --against {_GIT}{written} compares both)",
            path=error.path, line=error.line, column=error.column,
        ) from None  # fmt: skip
    return Version(label=at.label, plan=plan)


def prompt_texts(folder: Path, at: git.Revision) -> PromptTexts:
    """All prompt files and partials below a prompts folder at a revision.

    Raises:
        PromptError: a file is no UTF-8.
    """
    files = [one for one in git.listed(folder, at) if one.path.endswith(SUFFIX) or one.path.startswith(f"{PARTIALS}/")]
    found = git.contents(folder, files)
    linked = {one.path for one in files if one.link}
    prompts: dict[str, str] = {}
    partials: dict[str, str] = {}
    where = f"{at.written}:{folder.name}/"
    for path, data in found.items():
        target = _followed(path, found, linked)
        if target is None:
            continue
        text = _text(found[target] if path in linked else data, f"{where}{path}")
        if path.startswith(f"{PARTIALS}/"):
            partials[path] = text
        elif not path.startswith("_") and "/_" not in path:
            prompts[path.removesuffix(SUFFIX)] = text
    return PromptTexts(prompts, partials, where=where)


def _followed(path: str, found: dict[str, bytes], linked: set[str]) -> str | None:
    """The file that a path leads to, over symbolic links between the files that were read; None for another place."""
    for _ in range(8):
        if path not in linked:
            return path if path in found else None
        parts: list[str] = path.split("/")[:-1]
        for part in found[path].decode(errors="replace").split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part not in (".", ""):
                parts.append(part)
        path = "/".join(parts)
    return None


def _of_file(name: str, path: Path, registry: Registry, folder: Path) -> Version:
    shown = path.as_posix()
    text = _text(path.read_bytes(), shown)
    places = [path.parent, *path.parent.parents][: 1 + name.count("/")]
    own = next((one for one in places if (one / PARTIALS).is_dir()), folder)
    plan = compile_plan(registry, parse_prompt(text, name=name, path=shown), make_environment(own))
    return Version(label=shown, plan=plan)


def _text(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise PromptError("a prompt file is UTF-8 text; save it as UTF-8", path=shown) from None
