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
SLACK = 5.0
"""Seconds by which a call on a busy machine may be later than its timeout."""
UNAVAILABLE = (None, None, "unavailable", "unavailable")
"""What `Caller.features` has of a user while the store is away."""
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
        self._project = project
        self.timeout = project.config.online.timeout.total_seconds()
        self._runner = asyncio.Runner() if asynchronous else None
        self._builder: Any = project.async_builder() if asynchronous else project.builder()

    def build(self, prompt: str = "default", user: str | None = "u1", **options: Any) -> PromptContext:
        """One prompt."""
        return self._done(self._builder.build_context(prompt, user_id=user, **options))

    def build_many(self, prompt: str, users: list[str], **options: Any) -> list[PromptContext]:
        """Many prompts in one call."""
        return self._done(self._builder.build_contexts(prompt, [{"user_id": user} for user in users], **options))

    def features(self, users: list[str], timeout: float | None = None) -> list[tuple[object, object, str, str]]:
        """The features of users without a prompt: both values, and both statuses."""
        rows = self._project.get_online_features(
            ["segment", "watched"], [{"user_id": user} for user in users], timeout=timeout
        )
        return [
            (row["segment"].value, row["watched"].value, row["segment"].status, row["watched"].status) for row in rows
        ]

    def in_new_process(self) -> Caller:
        """The same builder in a forked child, where an event loop is another."""
        if self._runner is not None:
            self._runner = asyncio.Runner()
        return self

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
    assert time.monotonic() - start < caller.timeout + SLACK
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
    assert caller.features(["u1"]) == [UNAVAILABLE]
    assert caller.features(["u1", "nobody", "u2"]) == [UNAVAILABLE] * 3


def comes_back(caller: Caller) -> None:
    """Within a second of the store's being back, and from then on, calls have their users' values."""
    deadline = time.monotonic() + BACK
    while caller.build().manifest.degraded and time.monotonic() < deadline:
        time.sleep(0.01)
    users = [f"u{user}" for user in range(USERS)]
    for user in users:
        is_present(caller.build(user=user, timeout=HANGS), user)
    for ctx, user in zip(caller.build_many("default", users, timeout=HANGS), users, strict=True):
        is_present(ctx, user)
    assert caller.features(users, timeout=HANGS) == [
        (segment_of(user), watched_of(user), "present", "present") for user in users
    ]


def statuses(ctx: PromptContext) -> Mapping[str, str]:
    return {name: found.status for name, found in ctx.features.items()}
