"""Compile prompt bodies: `compile_prompt` gives a `Compiled`, which names the body reads, and how it is rendered."""

from __future__ import annotations

from typing import Any, cast

from jinja2 import (
    BaseLoader,
    TemplateNotFound,
    TemplateSyntaxError,
)

from llmfeatures.errors import PromptError, did_you_mean
from llmfeatures.prompts.codegen import (
    PARTIALS,
)
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.environment import PromptEnvironment, template_of
from llmfeatures.prompts.sections import misplaced
from llmfeatures.prompts.tags import column, syntax_problem
from llmfeatures.prompts.uses import Uses
from llmfeatures.tokens import Tokenizer


class Frozen(BaseLoader):
    """The partials of one prompt, each read once, so that what was compiled and hashed is what renders."""

    def __init__(self, base: BaseLoader) -> None:
        self.base = base
        self.sources: dict[str, tuple[str, str | None]] = {}

    def get_source(self, environment: Any, template: str) -> tuple[str, str | None, None]:
        if template not in self.sources:
            if not template.startswith(f"{PARTIALS}/"):
                raise TemplateNotFound(template)
            try:
                source, path, _ = self.base.get_source(environment, template)
            except UnicodeDecodeError:
                raise PromptError("a partial is UTF-8 text; save it as UTF-8", path=template) from None
            self.sources[template] = (source, path)
        return *self.sources[template], None

    def partials(self) -> list[str]:
        """The names of the partials that there are."""
        try:
            return [name for name in self.base.list_templates() if name.startswith(f"{PARTIALS}/")]
        except TypeError:
            return []


def compile_prompt(
    env: PromptEnvironment,
    body: str,
    *,
    name: str,
    path: str,
    line_offset: int,
    tokenizer: Tokenizer | None = None,
    documents: bool = False,
) -> Compiled:
    """Compile the body of a prompt file with all partials it uses; ``line_offset`` is the number of lines before it.
    ``tokenizer`` is that of its budget. ``documents``: whether it is given some, as `template_document` makes them.

    Raises:
        PromptError: the body, or a partial, cannot be right; with file, line and column.
    """
    loader = Frozen(cast("BaseLoader", env.loader))
    own = env.with_loader(loader)
    own.line_offsets[name] = line_offset
    own.tokenizer = tokenizer
    if documents:
        own.use_documents()
    try:
        template = template_of(own, body, name, path)
        _load_partials(own, loader, name)
    except TemplateSyntaxError as error:
        raise PromptError(
            syntax_problem(error),
            path=error.filename or path,
            line=int(error.lineno),
            column=column(error.lineno),
        ) from None
    except RecursionError:
        raise PromptError("the template nests too deeply", path=path) from None
    _check_layout(own, name)
    uses = Uses(own, name).collect()
    attributes: dict[str, dict[str | None, None]] = {}
    positions: dict[str, tuple[str, int, int | None]] = {}
    for file, use in uses:
        attributes.setdefault(use.name, {})[use.attribute] = None
        keys = (use.name,) if use.attribute is None else (use.name, f"{use.name}.{use.attribute}")
        for key in keys:
            positions.setdefault(key, (file, int(use.line), column(use.line)))
    names = frozenset(attributes) - own.globals.keys()
    return Compiled(
        names=names,
        attributes={key: tuple(read) for key, read in attributes.items() if key in names},
        positions={key: where for key, where in positions.items() if key.split(".", 1)[0] in names},
        uses_messages=any(analysis.uses_messages for analysis in own.analyses.values()),
        sources={key: source for key, (source, _) in sorted(loader.sources.items())},
        sections=tuple((one.path, section) for one in own.analyses.values() for section in one.layout.sections),
        breaks=sum(len(one.layout.breaks) for one in own.analyses.values()),
        has_conversation=any(one.layout.conversations for one in own.analyses.values()),
        name=name,
        path=path,
        body=body,
        _environment=own,
        _template=template,
        _globals=dict(own.globals)
        if loader.sources
        else {key: own.globals[key] for key in own.globals.keys() & attributes.keys()},
    )


def _load_partials(environment: PromptEnvironment, loader: Frozen, name: str) -> None:
    """Compile each partial that the template uses, directly or through others."""
    todo, seen = [name], {name}
    while todo:
        analysis = environment.analyses[todo.pop()]
        for reference in analysis.references:
            if reference.name in seen:
                continue
            seen.add(reference.name)
            try:
                environment.get_template(reference.name)
            except TemplateNotFound:
                if reference.optional:
                    continue
                known = loader.partials()
                raise PromptError(
                    f"there is no partial {reference.name!r}{did_you_mean(reference.name, known)}",
                    path=analysis.path, line=int(reference.line), column=column(reference.line),
                ) from None  # fmt: skip
            todo.append(reference.name)


def _check_layout(environment: PromptEnvironment, name: str) -> None:
    for wrong in misplaced({key: one.layout for key, one in environment.analyses.items()}, name):
        raise PromptError(
            wrong.message,
            path=environment.analyses[wrong.template].path,
            line=int(wrong.line),
            column=column(wrong.line),
        )
