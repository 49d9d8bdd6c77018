"""Which names a template reads from its context, with its partials."""

from __future__ import annotations

from llmfeatures.errors import PromptError
from llmfeatures.prompts.codegen import (
    Analysis,
    Reference,
    Use,
)
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.tags import column


class Uses:
    """The readings from the context of a template with its partials, in order of files and lines."""

    def __init__(self, environment: PromptEnvironment, name: str) -> None:
        self.analyses, self.name, self.globals = environment.analyses, name, environment.globals

    def collect(self) -> list[tuple[str, Use]]:
        """Each use, with its file."""
        return self._of(self.name, frozenset(), ())

    def _of(self, name: str, provided: frozenset[str], path: tuple[str, ...]) -> list[tuple[str, Use]]:
        if name in path or name not in self.analyses:
            return []
        chain = self._chain(name)
        assigned = frozenset[str]().union(*[self.analyses[one].assigned for one in chain])
        found: list[tuple[str, Use]] = []
        for one in chain:
            analysis = self.analyses[one]
            known = provided if one == name else provided | self.analyses[name].assigned
            uses = sorted(analysis.uses, key=lambda use: (int(use.line), column(use.line) or 0))
            found += [
                (analysis.path, use)
                for use in uses
                if use.name not in known and not (use.in_block and use.name in assigned)
            ]
            for reference in analysis.references:
                if reference.kind != "extends":
                    found += self._referred(analysis, reference, known, (*path, name))
        return found

    def _chain(self, name: str) -> list[str]:
        """The template and what it extends, up to the last."""
        chain = [name]
        while parent := next((one.name for one in self.analyses[chain[-1]].references if one.kind == "extends"), None):
            if parent in chain or parent not in self.analyses:
                break
            chain.append(parent)
        return chain

    def _referred(
        self, analysis: Analysis, reference: Reference, provided: frozenset[str], path: tuple[str, ...]
    ) -> list[tuple[str, Use]]:
        if reference.sees_context:
            return self._of(reference.name, provided | reference.provided, path)
        blind = [use for _, use in self._of(reference.name, frozenset(), path) if use.name not in self.globals]
        if blind:
            raise PromptError(
                f"{reference.name} reads {blind[0].name!r}, which it cannot see: write 'with context' after the "
                f"{reference.kind}, or pass it to the macro as an argument",
                path=analysis.path, line=int(reference.line), column=column(reference.line),
            )  # fmt: skip
        return []
