"""Errors as they cross HTTP: which code and status each has, its JSON body, and the way back to the same exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

from llmfeatures import errors
from llmfeatures.errors import LLMFeaturesError

RETRY_AFTER: Final = 1
"""Seconds after which a read that found the service or its store away is worth another try."""


class _Kind(NamedTuple):
    """What a class of errors is over HTTP. ``details`` are attributes that go with it."""

    code: str
    status: int
    details: tuple[str, ...] = ()
    retry: bool = False


_KINDS: Final[Mapping[type[LLMFeaturesError], _Kind]] = {
    errors.RequestError: _Kind("request", 422),
    errors.PushedRowsError: _Kind("pushed_rows", 422, ("problems", "total")),
    errors.InvalidValueError: _Kind("invalid_value", 422),
    errors.UnknownNameError: _Kind("unknown_name", 404, ("kind", "name", "known")),
    errors.DefinitionError: _Kind("definition", 422),
    errors.FeatureNotPresentError: _Kind("feature_not_present", 422, ("feature", "status", "problem")),
    errors.BudgetError: _Kind("budget", 422),
    errors.DocumentsUnavailableError: _Kind("documents_unavailable", 503, ("documents", "retriever"), retry=True),
    errors.OnDemandError: _Kind("on_demand", 422, ("feature",)),
    errors.RenderError: _Kind("render", 422),
    errors.SpineError: _Kind("spine", 422),
    errors.AccessError: _Kind("access", 403),
    errors.StoreReadOnlyError: _Kind("store_read_only", 403),
    errors.StoreUnavailableError: _Kind("store_unavailable", 503, retry=True),
    errors.EntityMismatchError: _Kind("entity_mismatch", 503, retry=True),
    errors.FormatError: _Kind("format", 503),
    errors.StoreError: _Kind("store", 503),
    errors.RetrieverUnavailableError: _Kind("retriever_unavailable", 503, retry=True),
    errors.RetrieverError: _Kind("retriever", 503),
    errors.PushLogError: _Kind("push_log", 503),
    errors.SourceError: _Kind("source", 503),
    errors.PromptError: _Kind("prompt", 500),
    errors.ConfigError: _Kind("config", 500),
    errors.ServiceError: _Kind("service", 500),
    LLMFeaturesError: _Kind("error", 500),
}
"""A subclass that is not here is what its nearest base is."""

OF_THE_SERVICE: Final[Mapping[str, int]] = {
    "invalid_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "too_large": 413,
    "media_type": 415,
    "internal": 500,
    "overloaded": 503,
    "not_ready": 503,
}
"""Codes that no exception of the library stands for, and their statuses."""
CODES: Final[tuple[str, ...]] = tuple(sorted({*(kind.code for kind in _KINDS.values()), *OF_THE_SERVICE}))
STATUSES: Final[tuple[int, ...]] = tuple(sorted({*(kind.status for kind in _KINDS.values()), *OF_THE_SERVICE.values()}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as HTTP has it. ``message`` is one sentence without values of features."""

    status: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    retry_after: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON body: ``{"error": {"code": ..., "message": ..., ...}}``."""
        return {"error": {"code": self.code, "message": self.message, **self.details}}


class ProblemError(Exception):
    """A problem of the service's own, on its way to the answer."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


def refusal(code: str, message: str, *, retry_after: int | None = None) -> ProblemError:
    """A problem of the service's own to raise. ``code`` is one of `OF_THE_SERVICE`."""
    return ProblemError(Problem(status=OF_THE_SERVICE[code], code=code, message=message, retry_after=retry_after))


def problem_of(error: LLMFeaturesError) -> Problem:
    """What an exception is over HTTP."""
    kind = next(_KINDS[one] for one in type(error).__mro__ if one in _KINDS)
    details = {name: getattr(error, name) for name in kind.details}
    return Problem(
        status=kind.status,
        code=kind.code,
        message=str(error),
        details=details,
        retry_after=RETRY_AFTER if kind.retry else None,
    )


def error_of(status: int, body: Any) -> LLMFeaturesError:
    """The exception that an answer of the service with this status stands for; ``body`` is its parsed JSON, or None."""
    found = cast("dict[str, Any]", body).get("error") if isinstance(body, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(cast("Any", found).get("code"), str):
        return errors.ServiceError(f"the service answered {status} without a reason; is this its address?")
    given = dict(cast("Mapping[str, Any]", found))
    code, message = given.pop("code"), str(given.pop("message", ""))
    for kind, over_http in _KINDS.items():
        if over_http.code == code:
            return _made(kind, message, given)
    if code in ("unauthorized", "forbidden"):
        return errors.AccessError(message)
    if code in ("invalid_json", "too_large"):
        return errors.RequestError(message)
    return errors.ServiceError(f"the service answered {status}: {message}")


def _made(kind: type[LLMFeaturesError], message: str, details: Mapping[str, Any]) -> LLMFeaturesError:
    """An error with a message that is finished already: its class would write one of its own."""
    error = kind.__new__(kind)
    error.args = (message,)
    for name in _KINDS[kind].details:
        setattr(error, name, _frozen(details.get(name)))
    if isinstance(error, errors.PromptError):
        error.message, error.path, error.line, error.column = message, "", None, None
    return error


def _frozen(value: Any) -> Any:
    """A detail as the exception's own class keeps it: tuples where JSON has arrays."""
    return tuple(_frozen(one) for one in cast("list[Any]", value)) if isinstance(value, list) else value
