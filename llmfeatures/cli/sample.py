"""The sample project, as `demo` runs it: where it is, a temporary copy of it, and the moments that it shows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmfeatures.project import Project

NOW = "2026-05-07T23:00:00Z"
PROMPT = "recommender"
USER, OTHER, UNKNOWN = "8a2f", "b13c", "unknown"
EARLIER = "2026-05-05T12:00:00Z"
MOMENTS = ((USER, EARLIER), (USER, "2026-05-07T22:00:00Z"), (OTHER, "2026-05-07T20:00:00Z"))

REGISTRY = "examples/streaming/features.py"
_PARTS = ("data/*.parquet", "prompts/**/*.j2", REGISTRY)
_CONFIG = """\
[project]
name = "{name}"
registry = "{registry}"
now = "{now}"

[online]
url = "{url}"
timeout = "5s"
"""


def sample_folder() -> Path:
    """The folder of the sample: inside an installed package, or the root of a checkout.

    Raises:
        ConfigError: the package was installed without it.
    """
    import llmfeatures
    from llmfeatures.errors import ConfigError

    package = Path(llmfeatures.__file__).parent
    for folder in (package / "_sample", package.parent):
        if (folder / REGISTRY).is_file():
            return folder
    raise ConfigError("this installation has no sample project; install llmfeatures from its wheel")


@contextmanager
def sample_project(source: Path, redis: str | None = None) -> Generator[Project]:
    """The sample in a temporary copy, with stores of its own; nothing is left of it, online neither.

    Args:
        source: the folder to copy from.
        redis: the URL of a Redis to use as online store, under a namespace that nobody else has.

    Raises:
        ConfigError: the folder has no sample.
        RequestError: the URL is no Redis'.
        StoreUnavailableError: the Redis cannot be reached.
    """
    from llmfeatures.config import find_config
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project
    from llmfeatures.registry import load_registry

    if redis is not None and not redis.startswith(("redis://", "rediss://", "unix://")):
        raise RequestError("--redis takes the URL of a Redis, like redis://localhost:6379/0")
    with tempfile.TemporaryDirectory(prefix="llmfeatures-demo-") as name:
        folder = Path(name)
        _copy(source, folder)
        namespace = f"demo-{os.urandom(6).hex()}"
        written = _CONFIG.format(name=namespace, registry=REGISTRY, now=NOW, url=redis or "sqlite")
        (folder / "llmfeatures.toml").write_text(written, encoding="utf-8")
        config = find_config(folder, environment={})  # the user's own settings are for the user's own project
        project = Project(config, load_registry(config.project.registry, config.root))
        try:
            project.online.meta()  # a Redis that cannot be reached is told before anything is shown
            yield project
        finally:
            project.close()
            if redis is not None:
                _remove_keys(redis, namespace)


def _copy(source: Path, folder: Path) -> None:
    from llmfeatures.errors import ConfigError

    if not (source / REGISTRY).is_file():
        raise ConfigError(f"{source} has no sample project: {REGISTRY} is not there")
    for part in _PARTS:
        for path in source.glob(part):
            place = folder / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _remove_keys(url: str, namespace: str) -> None:
    """Remove what the demo wrote to a Redis; one that is not there any more has nothing to remove."""
    import redis

    client: Any = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        for key in client.scan_iter(match=f"{namespace}:*", count=1_000):
            client.unlink(key)
    except redis.RedisError:
        pass
    finally:
        client.close()
