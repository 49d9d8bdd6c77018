"""A project with two rows per user, and both builders on it behind one face: the whole way from a call to a prompt."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project, PromptContext
from llmfeatures.errors import FeatureNotPresentError
from tests.projects import NOW, at, make_project, segment, watched

USERS = 20
TIMEOUT = "250ms"
BACK = 1.0
"""Seconds after which calls succeed again, once the store is back."""
HANGS = 20.0
"""Seconds that nothing takes, however busy the machine is, unless it hangs."""
PROMPTS = {
    "default": "---\nfeatures:\n  segment: {default: unknown}\n  watched: {default: 0}\n---\n"
    "{{ user_id }} is {{ segment }}, watched {{ watched }}",
    "none": "---\nfeatures:\n  watched: {on_missing: none}\n---\n"
    "{{ user_id }}{% if watched is none %}: nothing is known{% else %} watched {{ watched }}{% endif %}",
    "strict": "---\nfeatures:\n  watched: {default: 0, on_unavailable: error}\n---\n"
    "{{ user_id }} watched {{ watched }}",
}


def watched_of(user: str) -> int:
    """A user's number; one byte that is another makes of it no other user's."""
    return zlib.crc32(user.encode())


def segment_of(user: str) -> str:
    """A user's text, as `watched_of`."""
    return f"segment-of-{user}-{watched_of(user):08x}"


def text_of(user: str) -> str:
    """The prompt ``default`` of a user whose features are present."""
    return f"{user} is {segment_of(user)}, watched {watched_of(user)}"


def make(root: Path, *, online: str = "sqlite", timeout: str = TIMEOUT) -> Project:
    """The project, not materialized."""
    make_project(
        root,
        segments=[segment(user, segment_of(user), at(1)) for user in map("u{}".format, range(USERS))],
        counts=[watched(user, watched_of(user), at(1)) for user in map("u{}".format, range(USERS))],
        prompts=PROMPTS,
        online=online,
    )
    return again(root, timeout=timeout)


def again(root: Path, *, online: tuple[str, str] | None = None, timeout: str = TIMEOUT) -> Project:
    """The project loaded with another timeout, and another URL for one that its configuration has."""
    path = root / "llmfeatures.toml"
    lines = path.read_text().splitlines()
    text = "\n".join(f'timeout = "{timeout}"' if line.startswith("timeout") else line for line in lines) + "\n"
    if online is not None:
        assert online[0] in text
        text = text.replace(*online)
    path.write_text(text)
    return Project.load(root, now=lambda: NOW)


class Caller:
    """A builder of a project, sync or async, that is called in the same way."""

    def __init__(self, project: Project, *, asynchronous: bool) -> None:
        self._runner = asyncio.Runner() if asynchronous else None
        self._builder: Any = project.async_builder() if asynchronous else project.builder()

    def build(self, prompt: str = "default", user: str | None = "u1", **options: Any) -> PromptContext:
        """One prompt."""
        return self._done(self._builder.build_context(prompt, user_id=user, **options))

    def build_many(self, prompt: str, users: list[str]) -> list[PromptContext]:
        """Many prompts in one call."""
        return self._done(self._builder.build_contexts(prompt, [{"user_id": user} for user in users]))

    def close_store(self) -> None:
        """Give connections back, and go on."""
        self._done(self._builder.close() if self._runner is None else self._builder.aclose())

    def close(self) -> None:
        if self._runner is None:
            self._builder.close()
        else:
            self._runner.run(self._builder.aclose())
            self._runner.close()

    def _done(self, made: Any) -> Any:
        return made if self._runner is None else self._runner.run(made)


Open = Callable[[Project], Caller]


def is_present(ctx: PromptContext, user: str = "u1") -> None:
    """The prompt ``default`` has this user's values, and says nothing of an outage."""
    assert ctx.text == text_of(user)
    assert statuses(ctx) == {"segment": "present", "watched": "present"}
    assert (ctx.manifest.degraded, ctx.manifest.problem) == (False, None)


def is_degraded(caller: Caller, problem: str, user: str = "u1") -> None:
    """Each policy decides, the manifest tells, and within the timeout. ``problem`` is a pattern of what it tells."""
    start = time.monotonic()
    ctx = caller.build(user=user)
    assert ctx.text == f"{user} is unknown, watched 0"
    assert statuses(ctx) == {"segment": "unavailable", "watched": "unavailable"}
    assert ctx.manifest.degraded
    assert re.search(problem, ctx.manifest.problem or "")
    assert caller.build("none", user).text == f"{user}: nothing is known"
    with pytest.raises(FeatureNotPresentError, match="'watched' of prompt 'strict' is unavailable") as raised:
        caller.build("strict", user)
    assert (raised.value.feature, raised.value.status) == ("watched", "unavailable")
    assert raised.value.problem
    assert raised.value.problem in str(raised.value)
    many = caller.build_many("default", ["u1", "u2"])
    assert [one.text for one in many] == ["u1 is unknown, watched 0", "u2 is unknown, watched 0"]
    assert all(one.manifest.degraded for one in many)
    assert time.monotonic() - start < HANGS


def comes_back(caller: Caller) -> None:
    """Within a second of the store's being back, and from then on, calls have their users' values."""
    deadline = time.monotonic() + BACK
    while caller.build().manifest.degraded and time.monotonic() < deadline:
        time.sleep(0.01)
    for user in range(USERS):
        is_present(caller.build(user=f"u{user}"), f"u{user}")


def statuses(ctx: PromptContext) -> Mapping[str, str]:
    return {name: found.status for name, found in ctx.features.items()}
