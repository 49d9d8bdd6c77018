"""Prompt files as they were at one moment: their texts in memory, to compile without a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import BaseLoader, TemplateNotFound
from jinja2.nodes import TemplateData

from llmfeatures.errors import PromptError, UnknownNameError
from llmfeatures.prompts.codegen import PARTIALS
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import SUFFIX, PromptFile, parse_prompt, prompt_names, prompt_path


class PromptTexts:
    """The texts of prompt files by name, and of partials by ``_shared/NAME``, with line feeds.

    ``where`` stands before a file's name in messages: ``prompts/``.
    """

    def __init__(self, prompts: Mapping[str, str], partials: Mapping[str, str], *, where: str) -> None:
        self.prompts, self.partials, self.where = prompts, partials, where

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptTexts) and (self.prompts, self.partials) == (other.prompts, other.partials)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @classmethod
    def of_folder(cls, folder: Path) -> PromptTexts:
        """Those of a prompts folder, as they are now.

        Raises:
            PromptError: a file is no UTF-8, or cannot be read.
        """
        where = f"{folder.name}/"
        prompts = {name: _text(prompt_path(folder, name), f"{where}{name}{SUFFIX}") for name in prompt_names(folder)}
        partials: dict[str, str] = {}
        for path in sorted((folder / PARTIALS).rglob("*")):
            if not path.is_file():
                continue
            name = path.relative_to(folder).as_posix()
            try:
                partials[name] = _text(path, f"{where}{name}")
            except PromptError:
                if not path.name.startswith("."):  # what a desktop or an editor leaves is no partial
                    raise
        return cls(prompts, partials, where=where)

    def names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return sorted(self.prompts)

    def read(self, name: str) -> PromptFile:
        """A prompt file.

        Raises:
            UnknownNameError: there is no such prompt.
            PromptError: its header is wrong.
        """
        return parse_prompt(self.text(name), name=name, path=f"{self.where}{name}{SUFFIX}")

    def text(self, name: str) -> str:
        """The text of a prompt file.

        Raises:
            UnknownNameError: there is no such prompt.
        """
        if not isinstance(name, str) or name not in self.prompts:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UnknownNameError("prompt", str(name)[:80], self.prompts)
        return self.prompts[name]

    def environment(self) -> PromptEnvironment:
        """The environment to compile these prompts in."""
        return PromptEnvironment(_Loader(self))


def static_text(body: str, partials: Mapping[str, str]) -> str:
    """What the author of a template that compiles wrote as text, in all branches and in its partials, without tags."""
    environment = PromptEnvironment(BaseLoader())
    trees = [environment.parse(source) for source in (body, *partials.values())]
    return "".join(one.data for tree in trees for one in tree.find_all(TemplateData))


class _Loader(BaseLoader):
    """Finds partials among texts."""

    def __init__(self, texts: PromptTexts) -> None:
        self._texts = texts

    def get_source(self, environment: object, template: str) -> tuple[str, str, None]:  # noqa: ARG002
        source = self._texts.partials.get(template)
        if source is None:
            raise TemplateNotFound(template)
        return source, f"{self._texts.where}{template}", None

    def list_templates(self) -> list[str]:
        return sorted(self._texts.partials)


def _text(path: Path, shown: str) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError("a prompt file is UTF-8 text; save it as UTF-8", path=shown) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror}", path=shown) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
