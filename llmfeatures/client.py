"""`Client` and `AsyncClient`: the builders' methods, answered by a service that runs elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import httpx

from llmfeatures import calls
from llmfeatures.calls import Call, Timeout
from llmfeatures.context import FeatureValue, PromptContext
from llmfeatures.errors import RequestError
from llmfeatures.inject import AsyncBuild, Build, Inject, Target, inject_async, inject_sync
from llmfeatures.push_report import PushReport
from llmfeatures.version import __version__

_AGAIN = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""After these a call is sent again: it was never sent, or the connection ended before an answer, and every call may be
repeated. A service that is slow is not asked again."""
_LEAST = 0.001
"""Seconds that a step has which begins when there is no time left."""


class Client:
    """A service's prompts and features. Thread-safe; share one per process, and close it, or use it in ``with``.

    Errors are the exceptions that the service met: `FeatureNotPresentError`, `RequestError`, and so on. `ServiceError`
    when no answer came, or not in time (its ``push_id`` then names a push that may have been kept), `AccessError` when
    the API key may not do this.

    Args:
        url: the service's address, like ``http://127.0.0.1:8000``.
        api_key: ``llf_...``, where the service needs one; white space around it, as a file's last line has, is ignored.
        timeout: seconds for one try, from connecting to the last byte of its answer. Of `AsyncClient` that is exact;
            `Client` looks at the clock whenever bytes of the body came, and waits no longer than what was left at its
            start for more. A head that comes byte by byte has that long for each.

    Raises:
        RequestError: an argument is none of these, or a closed client is used.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 5.0) -> None:
        self._url, self._timeout = url, calls.client_timeout(timeout)
        self._http = httpx.Client(**_settings(url, api_key, timeout))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def build_context(
        self,
        prompt: str,
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
        **keys_and_inputs: Any,
    ) -> PromptContext:
        """As `ContextBuilder.build_context`; ``timeout`` is that of the service's online read."""
        return self._send(
            calls.context_call(
                prompt, keys_and_inputs, as_of=as_of, clock=clock, timeout=timeout, live_documents=_live_documents
            )
        )

    def build_contexts(
        self,
        prompt: str,
        rows: Sequence[Mapping[str, Any]],
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
    ) -> list[PromptContext]:
        """As `ContextBuilder.build_contexts`."""
        return self._send(
            calls.contexts_call(prompt, rows, as_of=as_of, clock=clock, timeout=timeout, live_documents=_live_documents)
        )

    def get_online_features(
        self, features: Sequence[str], rows: Sequence[Mapping[str, Any]], *, timeout: Timeout = None
    ) -> list[dict[str, FeatureValue]]:
        """As `Project.get_online_features`."""
        return self._send(calls.features_call(features, rows, timeout=timeout))

    def push(self, view: str, rows: Sequence[Mapping[str, Any]], *, push_id: str | None = None) -> PushReport:
        """As `Project.push`. Without a ``push_id`` one is made, so that a repeated try pushes nothing twice."""
        return self._send(calls.push_call(view, rows, push_id))

    def prompt_names(self) -> list[str]:
        """The names of the prompts that the service serves, sorted. Needs the scope ``read``, as `registry` does."""
        return calls.prompt_names(self.registry())

    def registry(self) -> dict[str, Any]:
        """What the service can be asked for: entities, views, on-demand features and prompts, as plain data."""
        return self._send(calls.registry_call())

    def inject(self, prompt: str) -> Inject:
        """As `ContextBuilder.inject`; names are checked at the first call, as decorating asks the service nothing."""

        def building(target: Target) -> Build:
            taken: list[str] | None = None

            def build(given: Mapping[str, Any]) -> PromptContext:
                nonlocal taken
                if taken is None:
                    taken = calls.call_arguments(self.registry(), prompt, target.name, target.parameters)
                return self.build_context(prompt, **{name: given[name] for name in taken})

            return build

        return inject_sync(prompt, building)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call) -> Any:
        attempt = 0
        while True:
            attempt += 1
            if self._http.is_closed:
                raise calls.closed(call, sent=attempt > 1)
            try:
                status, headers, content = self._try(call)
            except _AGAIN as error:
                wait = calls.wait_before(attempt)
                if wait is None:
                    raise calls.unreachable(self._url, error, call) from error
            except httpx.TimeoutException:
                raise calls.late(self._url, self._timeout, call) from None
            except httpx.HTTPError as error:
                raise calls.unreachable(self._url, error, call) from error
            except RuntimeError:  # httpx's, when another thread has closed it just now
                if not self._http.is_closed:
                    raise
                raise calls.closed(call, sent=True) from None
            else:
                again = calls.is_retry(status, headers)
                wait = calls.wait_before(attempt, headers.get("retry-after")) if again else None
                if wait is None:
                    return calls.answer_of(call, status, content)
            time.sleep(wait)

    def _try(self, call: Call) -> tuple[int, httpx.Headers, bytes]:
        """Send a call once. Each step of it has the time that those before have left."""
        deadline = time.monotonic() + self._timeout
        request = self._http.build_request(call.method, call.path, params=call.query, content=call.body)
        limits: dict[str, float] = request.extensions["timeout"]

        def shorten(event: str, _: Mapping[str, Any]) -> None:
            if event.endswith(".started"):
                left = max(deadline - time.monotonic(), _LEAST)
                limits.update(connect=left, read=left, write=left)

        request.extensions["trace"] = shorten
        answer = self._http.send(request, stream=True)
        try:
            parts: list[bytes] = []
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer is not whole", request=request)
        finally:
            answer.close()
        return answer.status_code, answer.headers, b"".join(parts)


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 5.0) -> None:
        self._url, self._timeout = url, calls.client_timeout(timeout)
        self._http = httpx.AsyncClient(**_settings(url, api_key, timeout))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    async def build_context(
        self,
        prompt: str,
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
        **keys_and_inputs: Any,
    ) -> PromptContext:
        """As `Client.build_context`."""
        return await self._send(
            calls.context_call(
                prompt, keys_and_inputs, as_of=as_of, clock=clock, timeout=timeout, live_documents=_live_documents
            )
        )

    async def build_contexts(
        self,
        prompt: str,
        rows: Sequence[Mapping[str, Any]],
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
    ) -> list[PromptContext]:
        """As `Client.build_contexts`."""
        return await self._send(
            calls.contexts_call(prompt, rows, as_of=as_of, clock=clock, timeout=timeout, live_documents=_live_documents)
        )

    async def get_online_features(
        self, features: Sequence[str], rows: Sequence[Mapping[str, Any]], *, timeout: Timeout = None
    ) -> list[dict[str, FeatureValue]]:
        """As `Client.get_online_features`."""
        return await self._send(calls.features_call(features, rows, timeout=timeout))

    async def push(self, view: str, rows: Sequence[Mapping[str, Any]], *, push_id: str | None = None) -> PushReport:
        """As `Client.push`."""
        return await self._send(calls.push_call(view, rows, push_id))

    async def prompt_names(self) -> list[str]:
        """As `Client.prompt_names`."""
        return calls.prompt_names(await self.registry())

    async def registry(self) -> dict[str, Any]:
        """As `Client.registry`."""
        return await self._send(calls.registry_call())

    def inject(self, prompt: str) -> Inject:
        """As `Client.inject`, for ``async def`` and async generators."""

        def building(target: Target) -> AsyncBuild:
            taken: list[str] | None = None

            async def build(given: Mapping[str, Any]) -> PromptContext:
                nonlocal taken
                if taken is None:
                    taken = calls.call_arguments(await self.registry(), prompt, target.name, target.parameters)
                return await self.build_context(prompt, **{name: given[name] for name in taken})

            return build

        return inject_async(prompt, building, "Client.inject")

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: Call) -> Any:
        attempt = 0
        while True:
            attempt += 1
            if self._http.is_closed:
                raise calls.closed(call, sent=attempt > 1)
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._http.request(call.method, call.path, params=call.query, content=call.body)
            except _AGAIN as error:
                wait = calls.wait_before(attempt)
                if wait is None:
                    raise calls.unreachable(self._url, error, call) from error
            except (TimeoutError, httpx.TimeoutException):
                raise calls.late(self._url, self._timeout, call) from None
            except httpx.HTTPError as error:
                raise calls.unreachable(self._url, error, call) from error
            except RuntimeError:  # httpx's, when another thread has closed it just now
                if not self._http.is_closed:
                    raise
                raise calls.closed(call, sent=True) from None
            else:
                again = calls.is_retry(answer.status_code, answer.headers)
                wait = calls.wait_before(attempt, answer.headers.get("retry-after")) if again else None
                if wait is None:
                    return calls.answer_of(call, answer.status_code, answer.content)
            await asyncio.sleep(wait)


def _settings(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"url is the service's address, like http://127.0.0.1:8000, not {url!r}")
    headers = {"content-type": "application/json", "accept": "application/json"}
    headers["user-agent"] = f"llmfeatures/{__version__}"
    if api_key is not None:
        headers["authorization"] = f"Bearer {calls.checked_key(api_key)}"
    return {"base_url": url, "headers": headers, "timeout": timeout, "follow_redirects": False}
