"""What the clients send to the service, what they make of its answers, and what is worth another try. Pure."""

from __future__ import annotations

import json
import math
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import quote

from llmfeatures.clock import as_utc, iso
from llmfeatures.context import FeatureValue, PromptContext
from llmfeatures.errors import InvalidValueError, RequestError, ServiceError, did_you_mean
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
    id that the service knows it by, ``push_id``."""

    method: str
    path: str
    read: Callable[[Any], Any]
    query: Mapping[str, str]
    body: bytes | None = None
    push_id: str | None = None


def context_call(
    prompt: str,
    given: Mapping[str, Any],
    *,
    as_of: datetime | str | None,
    clock: str,
    timeout: Timeout,
    live_documents: bool = False,
) -> Call:
    """A finished prompt."""
    _check_given("", given)
    return Call(
        method="POST",
        path=f"/v1/prompts/{quote(_name('prompt', prompt))}/context",
        query=_options(as_of, clock, timeout, live_documents),
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
    live_documents: bool = False,
) -> Call:
    """Finished prompts of many rows."""
    return Call(
        method="POST",
        path=f"/v1/prompts/{quote(_name('prompt', prompt))}/contexts",
        query=_options(as_of, clock, timeout, live_documents),
        body=_body({"rows": _given_rows(rows)}),
        read=lambda data: [PromptContext.model_validate(one) for one in data["contexts"]],
    )


def features_call(features: Sequence[str], rows: Sequence[Mapping[str, Any]], *, timeout: Timeout) -> Call:
    """The newest features of entities."""
    if not isinstance(features, (list, tuple)):
        raise RequestError(f"features is a list of names, not {type(features).__name__}")
    return Call(
        method="POST",
        path="/v1/features",
        query=_options(None, "known", timeout),
        body=_body({"features": list(features), "rows": _given_rows(rows)}),
        read=_features,
    )


def push_call(view: str, rows: Sequence[Mapping[str, Any]], push_id: str | None) -> Call:
    """Rows of a view. Without a ``push_id`` one is made."""
    if push_id is not None and not isinstance(push_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"push_id is text, or None for a new one, not {type(push_id).__name__}")
    identity = uuid.uuid4().hex if push_id is None else push_id
    return Call(
        method="POST",
        path=f"/v1/push/{quote(_name('view', view), safe='')}",
        query={},
        body=_body({"rows": _rows(rows), "push_id": identity}),
        read=lambda data: PushReport(**data),
        push_id=identity,
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
        error = error_of(status, data)
        raise _unsettled(str(error), call) if type(error) is ServiceError and not 400 <= status < 500 else error
    try:
        return call.read(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unsettled(
            "the service's answer is none that this version reads; use the same version of llmfeatures on both sides",
            call,
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


def unreachable(url: str, error: Exception, call: Call) -> ServiceError:
    """What to say when no answer came."""
    return _unsettled(
        f"the service at {url} could not be reached ({type(error).__name__}); is it up, and the address right?", call
    )


def late(url: str, timeout: float, call: Call) -> ServiceError:
    """What to say when no answer, or not all of it, came in time."""
    return _unsettled(
        f"the service at {url} did not answer in time ({timeout:g}s); is it up, or does the client need a longer "
        "timeout?",
        call,
    )


def closed(call: Call, *, sent: bool) -> RequestError | ServiceError:
    """What to say when the client was closed: before a call, or once it may have been ``sent``."""
    if sent:
        return _unsettled("the client was closed before an answer came; close it once all calls have ended", call)
    return RequestError("this client is closed; make a new one, or close it later")


def checked_key(api_key: object) -> str:
    """An API key as the service takes it, without white space around it.

    Raises:
        RequestError: it can be no key. The message does not show it.
    """
    key = api_key.strip() if isinstance(api_key, str) else ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise RequestError(
            "api_key is text like llf_..., in one piece, as llmfeatures serve keys new printed it; None for no key"
        )
    return key


def client_timeout(timeout: object) -> float:
    """The seconds that a client gives each try.

    Raises:
        RequestError: it is no number of seconds, or not longer than zero.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise RequestError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout < math.inf:
        raise RequestError("timeout is longer than zero, and not without end")
    return float(timeout)


def _unsettled(message: str, call: Call) -> ServiceError:
    """An error that says nothing about what became of a push, so that its id must be known to repeat it."""
    if call.push_id is not None:
        message += "" if message.endswith("?") else "."
        message += f" The push may have been kept: repeat it with push_id={call.push_id!r}, which pushes nothing twice."
    error = ServiceError(message)
    error.push_id = call.push_id
    return error


def prompt_names(listing: Mapping[str, Any]) -> list[str]:
    """The names of the prompts in the service's registry, sorted."""
    return sorted(one["name"] for one in listing["prompts"])


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


def _options(
    as_of: datetime | str | None, clock: str, timeout: Timeout, live_documents: bool = False
) -> dict[str, str]:
    options: dict[str, str] = {"live_documents": "true"} if live_documents else {}
    if as_of is not None:
        options["as_of"] = _moment(as_of)
    if clock != "known":
        options["clock"] = str(clock)
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, str, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"timeout is seconds, a timedelta or text such as 250ms, not {type(timeout).__name__}")
    if isinstance(timeout, str):
        options["timeout"] = timeout
    elif timeout is not None:
        if not 0 < timeout < math.inf:
            raise RequestError("timeout is longer than zero, and not without end")
        options["timeout"] = f"{max(1, round(timeout * 1_000_000))}us"
    return options


def _name(kind: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise RequestError(f"{kind} is a name, not {'empty' if name == '' else type(name).__name__}")
    return name


def _rows(rows: object) -> list[Mapping[str, Any]]:
    if not isinstance(rows, (list, tuple)):
        raise RequestError(f"rows are a list of mappings, not {type(rows).__name__}")
    listed = list(cast("Sequence[Any]", rows))
    for number, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise RequestError(f"row {number} is a mapping, not {type(row).__name__}")
    return listed


def _given_rows(rows: object) -> list[Mapping[str, Any]]:
    """Rows of join keys and inputs."""
    listed = _rows(rows)
    for number, row in enumerate(listed):
        _check_given(f"row {number}: ", row)
    return listed


def _check_given(where: str, given: Mapping[str, Any]) -> None:
    """JSON would make null of a number that is not finite, and null as a join key means that nobody is known."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{where}{name} is a number that is not finite, which JSON does not have")


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
