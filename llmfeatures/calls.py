"""What the clients send to the service, what they make of its answers, and what is worth another try. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import quote

from llmfeatures.clock import as_utc, iso
from llmfeatures.context import FeatureValue, PromptContext
from llmfeatures.errors import InvalidValueError, LLMFeaturesError, RequestError, ServiceError, did_you_mean
from llmfeatures.problems import error_of
from llmfeatures.push_report import PushReport
from llmfeatures.types import json_value, parse_dtype

TRIES: Final = 3
"""How often a call is sent at most."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 2.0

Timeout = float | timedelta | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, and what its answer is read as. Every call may be sent again: reads change nothing, and a push has an
    id that the service knows it by."""

    method: str
    path: str
    read: Callable[[Any], Any]
    query: Mapping[str, str]
    body: bytes | None = None


def context_call(
    prompt: str, given: Mapping[str, Any], *, as_of: datetime | str | None, clock: str, timeout: Timeout
) -> Call:
    """A finished prompt."""
    return Call(
        method="POST",
        path=f"/v1/prompts/{quote(prompt)}/context",
        query=_options(as_of, clock, timeout),
        body=_body(given),
        read=PromptContext.model_validate,
    )


def contexts_call(
    prompt: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    as_of: datetime | str | None,
    clock: str,
    timeout: Timeout,
) -> Call:
    """Finished prompts of many rows."""
    return Call(
        method="POST",
        path=f"/v1/prompts/{quote(prompt)}/contexts",
        query=_options(as_of, clock, timeout),
        body=_body({"rows": list(rows)}),
        read=lambda data: [PromptContext.model_validate(one) for one in data["contexts"]],
    )


def features_call(features: Sequence[str], rows: Sequence[Mapping[str, Any]], *, timeout: Timeout) -> Call:
    """The newest features of entities."""
    return Call(
        method="POST",
        path="/v1/features",
        query=_options(None, "known", timeout),
        body=_body({"features": list(features), "rows": list(rows)}),
        read=_features,
    )


def push_call(view: str, rows: Sequence[Mapping[str, Any]], push_id: str) -> Call:
    """Rows of a view."""
    return Call(
        method="POST",
        path=f"/v1/push/{quote(view, safe='')}",
        query={},
        body=_body({"rows": list(rows), "push_id": push_id}),
        read=lambda data: PushReport(**data),
    )


def registry_call() -> Call:
    """What the service can be asked for."""
    return Call(method="GET", path="/v1/registry", query={}, read=dict)


def answer_of(call: Call, status: int, content: bytes) -> Any:
    """What the answer to a call says.

    Raises:
        LLMFeaturesError: what the service says went wrong, as the exception that it was there.
        ServiceError: the answer is not what this version reads.
    """
    try:
        data = json.loads(content)  # orjson would make floats of integers beyond 64 bits
    except ValueError:
        data = None
    if status != 200:
        raise error_of(status, data)
    try:
        return call.read(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ServiceError(
            "the service's answer is none that this version reads; use the same version of llmfeatures on both sides"
        ) from None


def wait_before(attempt: int, retry_after: str | None = None) -> float | None:
    """Seconds to wait before a call is sent again after so many tries; None when it should not be. ``retry_after`` is
    what the service asked for."""
    if attempt >= TRIES:
        return None
    wait = _FIRST_WAIT * 2 ** (attempt - 1) * (0.5 + random.random())  # noqa: S311  spreads clients, hides nothing
    if retry_after is not None and retry_after.isdecimal():
        wait = max(wait, float(retry_after))
    return min(wait, _LONGEST_WAIT)


def is_retry(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the service asks for another try: 503 with a Retry-After."""
    return status == 503 and "retry-after" in headers


def unreachable(url: str, error: Exception) -> LLMFeaturesError:
    """What to say when no answer came."""
    return ServiceError(
        f"the service at {url} could not be reached ({type(error).__name__}); is it up, and the address right?"
    )


def call_arguments(listing: Mapping[str, Any], prompt: str, function: str, parameters: Sequence[str]) -> list[str]:
    """The names of a decorated function's parameters that its prompt takes, after the service's registry.

    Raises:
        RequestError: the function lacks one that the prompt needs, or there is no such prompt.
    """
    prompts = {one["name"]: one for one in listing["prompts"]}
    if prompt not in prompts:
        raise RequestError(f"unknown prompt {prompt!r}{did_you_mean(prompt, prompts)}")
    found = prompts[prompt]
    inputs: dict[str, Any] = found["inputs"]
    needed = [*found["join_keys"], *(name for name, one in inputs.items() if one["required"])]
    absent = [name for name in needed if name not in parameters]
    if absent:
        raise RequestError(f"{function} has no parameter {', '.join(map(repr, absent))}, which prompt {prompt!r} needs")
    return [name for name in (*found["join_keys"], *inputs) if name in parameters]


def _options(as_of: datetime | str | None, clock: str, timeout: Timeout) -> dict[str, str]:
    options: dict[str, str] = {}
    if as_of is not None:
        options["as_of"] = _moment(as_of)
    if clock != "known":
        options["clock"] = str(clock)
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, (int, float)):
        if isinstance(timeout, bool) or not timeout > 0:
            raise RequestError("timeout is longer than zero")
        options["timeout"] = f"{max(1, round(timeout * 1_000_000))}us"
    elif timeout is not None:
        options["timeout"] = timeout
    return options


def _moment(value: datetime | str) -> str:
    if not isinstance(value, (datetime, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"as_of is a datetime or ISO 8601 text, not {type(value).__name__}")
    try:
        return iso(as_utc(value))
    except InvalidValueError as error:
        raise RequestError(f"as_of: {error}") from None


def _body(given: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(json_value(given), ensure_ascii=False).encode()
    except InvalidValueError as error:
        raise RequestError(f"join keys, inputs and rows go over HTTP as JSON: {error}") from None


def _features(data: Any) -> list[dict[str, FeatureValue]]:
    dtypes = {name: parse_dtype(written) for name, written in data["dtypes"].items()}
    return [
        {name: _feature(dtypes[name], one) for name, one in cast("dict[str, Any]", row).items()} for row in data["rows"]
    ]


def _feature(dtype: Any, found: Mapping[str, Any]) -> FeatureValue:
    event = found["event_timestamp"]
    return FeatureValue(
        dtype.from_json(found["value"]), found["status"], None if event is None else datetime.fromisoformat(event)
    )
