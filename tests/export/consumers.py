"""The tools that read eval datasets: packages of the extra ``evals``, and promptfoo, installed here by npm.

A tool that is missing skips its test and says so; with ``LLMFEATURES_TEST_CONSUMERS=required`` it fails it.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

REQUIRED = "LLMFEATURES_TEST_CONSUMERS"
PROMPTFOO = "0.123.1"
NODE = (22, 22)
"""The oldest Node.js that this promptfoo runs on."""
LIBSQL = "0.5.29"
"""Of the database that this promptfoo opens, the version of the compiled part."""
BINDINGS = {
    ("Linux", "x86_64"): "@libsql/linux-x64-gnu",
    ("Linux", "aarch64"): "@libsql/linux-arm64-gnu",
    ("Darwin", "x86_64"): "@libsql/darwin-x64",
    ("Darwin", "arm64"): "@libsql/darwin-arm64",
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmfeatures-tests"
QUIET = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
}


def consumer(module: str) -> ModuleType:
    """The module of a tool."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        _without(f"{error}; install the extra 'evals'")


def promptfoo(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run promptfoo in a folder, which also is where it keeps its state."""
    path = _path()
    installed = _installed(path)
    return subprocess.run(
        [installed / "node_modules/.bin/promptfoo", *arguments],
        cwd=folder,
        env={**os.environ, **QUIET, "PATH": path, "PROMPTFOO_CONFIG_DIR": str(folder / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def _path() -> str:
    """A PATH with Node.js: that of the extra ``evals``, else the machine's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    node = shutil.which("node", path=path)
    if node is None or shutil.which("npm", path=path) is None:
        _without("no Node.js; install the extra 'evals'")
    done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True)
    version = done.stdout.strip().removeprefix("v")
    if tuple(map(int, version.split(".")[:2])) < NODE:
        _without(f"Node.js {version} is too old for promptfoo {PROMPTFOO}; install the extra 'evals'")
    return path


def _installed(path: str) -> Path:
    """Where promptfoo is; it is installed when it is not there yet, by one process at a time."""
    place = CACHE / f"promptfoo-{PROMPTFOO}"
    with _alone(place.with_name(f"{place.name}.lock")):
        if not place.exists():
            part = place.with_name(f"{place.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _install(part, path)
            part.rename(place)
    return place


def _install(folder: Path, path: str) -> None:
    wanted = [f"promptfoo@{PROMPTFOO}"]
    binding = BINDINGS.get((platform.system(), platform.machine()))
    if binding is not None:
        # all else that is optional is clients of models, two gigabytes of them
        wanted += [f"{binding}@{LIBSQL}", "--omit=optional"]
    done = subprocess.run(
        ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--loglevel=error", *wanted],
        cwd=folder,
        env={**os.environ, **QUIET, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    if done.returncode:
        _without(f"npm cannot install promptfoo {PROMPTFOO}: {done.stderr.strip()[-2000:]}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _without(reason: str) -> NoReturn:
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)
