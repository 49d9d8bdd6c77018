"""One request: who asks, its body within limits, its options. Nothing here knows what is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import orjson

from llmfeatures.clock import parse_duration
from llmfeatures.config import ServeSection
from llmfeatures.errors import ConfigError, RequestError, did_you_mean
from llmfeatures.problems import ProblemError, refusal
from llmfeatures.service.keys import ApiKey

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]

OPTIONS: Final = ("as_of", "clock", "live_documents", "timeout")
"""Options of a build, in the query of its URL: in the body they could be taken for join keys or inputs."""
MAX_TIMEOUT: Final = 60.0
_PAUSE: Final = 0.3
"""Seconds without a byte after which a client that sends too much is answered."""


class DisconnectedError(Exception):
    """The client has left before it was answered."""


class Request:
    """What an endpoint sees of a request."""

    __slots__ = ("_limits", "_receive", "key", "prompt", "request_id", "scope", "span")

    def __init__(self, scope: Scope, receive: Receive, limits: ServeSection) -> None:
        self.scope, self._receive, self._limits = scope, receive, limits
        self.key: ApiKey | None = None
        self.prompt = "-"
        self.request_id = ""
        self.span: Any = None

    def header(self, name: bytes) -> str | None:
        """The first header of this name (lower case)."""
        for one, value in self.scope["headers"]:
            if one == name:
                return value.decode("latin-1")
        return None

    def options(self, allowed: tuple[str, ...] = OPTIONS) -> dict[str, Any]:
        """The options in the query.

        Raises:
            RequestError: one is unknown, given twice, or wrong.
        """
        query = self.scope["query_string"]
        if not query:
            return {}
        options: dict[str, Any] = {}
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name not in allowed:
                raise RequestError(f"the query takes no {name!r}{did_you_mean(name, allowed)}")
            if name in options:
                raise RequestError(f"{name} is given twice in the query; give it once")
            options[name] = value
        if "timeout" in options:
            options["timeout"] = _timeout(options["timeout"])
        if "live_documents" in options:
            live = options.pop("live_documents")
            if live not in ("true", "false"):
                raise RequestError("live_documents is true or false")
            options["_live_documents"] = live == "true"
        return options

    async def json(self, *, exact: bool = False) -> Any:
        """The body as JSON. ``exact`` keeps integers beyond 64 bits, which a json value may hold; else they are floats.

        Raises:
            ProblemError: it is too large, too slow, of another type, or no JSON.
            DisconnectedError: the client has left.
        """
        body = await self.body()
        try:
            found = orjson.loads(body)
            return json.loads(body) if exact else found
        except RecursionError:
            raise refusal("invalid_json", "the body nests too deeply; send values that nest less") from None
        except orjson.JSONDecodeError:
            raise refusal("invalid_json", "the body is no JSON; send one JSON object in UTF-8") from None
        except ValueError:  # Python's own, as orjson has read it
            raise refusal("invalid_json", "a number of the body has too many digits; send it as a string") from None

    async def json_object(self, *, exact: bool = False) -> dict[str, Any]:
        """The body as a JSON object; else as `json`.

        Raises:
            RequestError: it is JSON of another type.
        """
        found = await self.json(exact=exact)
        if type(found) is not dict:
            raise RequestError("the body is one JSON object")
        return cast("dict[str, Any]", found)

    async def body(self) -> bytes:
        """The body, within the limits of size and time; see `json`."""
        deadline = asyncio.get_running_loop().time() + self._limits.body_timeout.total_seconds()
        if self._check_head() > self._limits.max_body:
            raise await self._too_large(deadline)
        message = await self._within(deadline)
        body = message.get("body", b"")
        while message.get("more_body", False) or len(body) > self._limits.max_body:
            if len(body) > self._limits.max_body:
                raise await self._too_large(deadline, ended=not message.get("more_body", False))
            message = await self._within(deadline)
            body += message.get("body", b"")
        return body

    async def _within(self, deadline: float) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError:
            raise refusal(
                "request_timeout", "the body did not arrive in time ([serve] body_timeout); send it faster"
            ) from None
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        return message

    def _check_head(self) -> int:
        """The length of the body as its head says it; 0 when it does not."""
        kind, length = b"", 0
        for name, value in self.scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = int(value)
        if kind != b"application/json" and not _is_json(kind):
            # a form, plain text or an untyped body can be sent by any page in a browser without asking first
            raise refusal("media_type", "the body is JSON; send it as Content-Type: application/json")
        return length

    async def _too_large(self, deadline: float, *, ended: bool = False) -> ProblemError:
        """The refusal, once the client has sent what it sends without waiting: it would not read an answer before."""
        clock = asyncio.get_running_loop().time
        ended = ended or self.header(b"expect") is not None
        with suppress(ProblemError):  # it has paused, and may be waiting
            while not ended:
                message = await self._within(min(deadline, clock() + _PAUSE))
                ended = not message.get("more_body", False)
        return refusal(
            "too_large",
            f"the body is larger than {self._limits.max_body} bytes ([serve] max_body); send fewer rows at once",
        )


def _is_json(kind: bytes) -> bool:
    media = kind.split(b";")[0].strip().lower()
    return media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json"))


def _timeout(written: str) -> float:
    try:
        seconds = parse_duration(written).total_seconds()
    except ConfigError as error:
        raise RequestError(f"timeout: {error}") from None
    if not 0 < seconds <= MAX_TIMEOUT:
        raise RequestError(f"timeout is longer than zero and at most {MAX_TIMEOUT:g}s")
    return seconds
