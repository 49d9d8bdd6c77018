"""Every error this package raises on purpose.

LLMFeaturesError
├── ConfigError                 llmfeatures.toml, environment variables
├── DefinitionError             a registry that cannot be right
│   └── UnknownNameError        a feature, view, entity or prompt that is not there
├── PromptError                 a prompt file that cannot be right
├── RenderError                 a prompt that could not be rendered with these values
│   ├── BudgetError             a prompt that is longer than its budget without any section
│   ├── DocumentsUnavailableError   documents whose retriever failed, and a policy that says "error"
│   ├── FeatureNotPresentError  a feature without a value, and a policy that says "error"
│   └── OnDemandError           an on-demand feature's function failed, or returned a wrong value
├── RequestError                the caller's keys, inputs or options
│   └── PushedRowsError         rows that cannot be pushed; none of them was
├── InvalidValueError           a value outside its dtype
├── SourceError                 a Parquet file or query that is not what the registry says
│   └── ExpectationError        rows that are not what a view's `expect` says; none of them was written
├── SpineError                  a spine without the columns that a join needs
├── PushLogError                pushed rows could not be kept, or not be read
├── ReleaseError                a release that cannot be made, read or rebuilt
├── AccessError                 an API key that is absent, wrong, or may not do this
├── ServiceError                the HTTP service could not be reached, or answered what cannot be used
├── RetrieverError              a retriever or embedder did not do what was asked
│   └── RetrieverUnavailableError   it could not be reached, did not answer in time, or was never filled
└── StoreError                  the online store
    ├── StoreUnavailableError   it could not be reached, or did not answer in time
    ├── StoreReadOnlyError      this project, or this store, may not be written
    ├── EntityMismatchError     an answer that belongs to another entity
    └── FormatError             data written in a format that this version does not read
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LLMFeaturesError(Exception):
    """Base of all errors of this package."""


class ConfigError(LLMFeaturesError):
    """The project's configuration is wrong."""


class DefinitionError(LLMFeaturesError):
    """A definition in the registry is wrong."""


class UnknownNameError(DefinitionError):
    """A name that the registry, or the prompts folder, does not have."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")


class PromptError(LLMFeaturesError):
    """A prompt file is wrong. ``path``, ``line`` and ``column`` (from 1) say where, when known."""

    def __init__(self, message: str, *, path: str = "", line: int | None = None, column: int | None = None) -> None:
        self.message, self.path, self.line, self.column = message, path, line, column
        where = ":".join(str(part) for part in (path, line, column) if part)
        super().__init__(f"{where}: {message}" if where else message)


class RenderError(LLMFeaturesError):
    """The prompt could not be rendered with these values."""


class BudgetError(RenderError):
    """The prompt has more tokens than its budget, also without any section."""


class DocumentsUnavailableError(RenderError):
    """The retriever of a prompt's ``documents`` failed or was late, and the prompt's policy for it is an error."""

    def __init__(self, message: str, *, documents: str, retriever: str) -> None:
        self.documents, self.retriever = documents, retriever
        super().__init__(message)


class FeatureNotPresentError(RenderError):
    """A feature has no value, and the prompt's policy for it is an error.

    ``problem`` is what was wrong with the online store, where the feature is ``unavailable``; else None.
    """

    def __init__(self, message: str, *, feature: str, status: str) -> None:
        self.feature, self.status = feature, status
        self.problem: str | None = None
        super().__init__(message)


class OnDemandError(RenderError):
    """An on-demand feature's function failed, or returned a wrong value. The message never shows a value."""

    def __init__(self, message: str, *, feature: str) -> None:
        self.feature = feature
        super().__init__(message)


class RequestError(LLMFeaturesError):
    """The caller's keys, inputs or options are wrong."""


class PushedRowsError(RequestError):
    """Rows that cannot be pushed; none of them was. ``problems`` are triples: the number of a row (from 0), the column,
    and what is wrong with it, which never shows the value. ``total`` counts them all, also those beyond the limit up to
    which they are listed."""

    def __init__(self, message: str, *, problems: Iterable[tuple[int, str, str]] = (), total: int = 0) -> None:
        self.problems, self.total = tuple(problems), total
        super().__init__(message)


class InvalidValueError(LLMFeaturesError):
    """A value does not fit its dtype. The message never shows the value."""


class SourceError(LLMFeaturesError):
    """A source is not what the registry says it is."""


class ExpectationError(SourceError):
    """A view's rows are not what its ``expect`` says. None of them was written: the old values stay."""


class SpineError(LLMFeaturesError):
    """A spine lacks what the join needs, or cannot be read."""


class PushLogError(LLMFeaturesError):
    """Pushed rows could not be kept, or not be read. A push that ends in this error was not acknowledged."""


class ReleaseError(LLMFeaturesError):
    """A release cannot be made, or what it holds cannot be read or rebuilt here. ``problems`` are the lines of what
    `Project.check` found, when that is the reason."""

    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, problems: Sequence[str]) -> ReleaseError:
        """That of a project with errors."""
        more = f" and {len(problems) - 1} more; llmfeatures check shows all" if len(problems) > 1 else ""
        error = cls(f"nothing was applied: {problems[0]}{more}")
        error.problems = tuple(problems)
        return error


class AccessError(LLMFeaturesError):
    """An API key is absent, wrong, or may not do this."""


class ServiceError(LLMFeaturesError):
    """The HTTP service could not be reached, or answered what this version cannot use.

    ``push_id`` is that of a push which may have been kept: sent again under it, it is kept once. Else None.
    """

    push_id: str | None = None


class RetrieverError(LLMFeaturesError):
    """A retriever, or the embedder of one, did not do what was asked."""


class RetrieverUnavailableError(RetrieverError):
    """A retriever, or the embedder of one, could not be reached, did not answer in time, or was never filled."""


class StoreError(LLMFeaturesError):
    """The online store did not do what was asked."""


class StoreUnavailableError(StoreError):
    """The online store could not be reached, or did not answer in time."""


class StoreReadOnlyError(StoreError):
    """The online store may not be written from here."""


class EntityMismatchError(StoreError):
    """The store's answer belongs to another entity: the connection is out of step and was dropped."""


class FormatError(StoreError):
    """Stored data has a format number that this version does not read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known ones, or all when there are few."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        hint = f"; did you mean {' or '.join(repr(one) for one in close)}?"
        return hint if len(names) > 12 else f"{hint} The valid choices are: {', '.join(names)}"
    if not names:
        return "; there are none"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"; the valid choices are: {shown}"
