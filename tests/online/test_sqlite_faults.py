"""When the embedded store fails: features are unavailable, the prompt's policy decides, and it comes back by itself."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures import Project
from llmfeatures.errors import StoreUnavailableError
from tests.online.callers import USERS, Caller, again, comes_back, is_degraded, is_present, make, text_of, watched_of

PATIENT = "20s"


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project that is filled."""
    project = make(tmp_path)
    project.materialize()
    yield project
    project.close()


@contextlib.contextmanager
def calling(project: Project, asynchronous: bool) -> Iterator[Caller]:
    caller = Caller(project, asynchronous=asynchronous)
    try:
        yield caller
    finally:
        caller.close()


def file_of(project: Project) -> Path:
    return project.config.state / "online.sqlite"


# Locked

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("DELETE FROM cells WHERE key = 'nobody'")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the file for itself alone; it is killed in the end."""
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert locker.stdin is not None
    assert locker.stdout is not None
    try:
        assert locker.stdout.readline() == "locked\n"
        yield
    finally:
        locker.kill()
        locker.wait()
        locker.stdin.close()
        locker.stdout.close()


def test_a_file_that_another_process_locks(
    project: Project, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.online.sqlite._WRITE_TIMEOUT", 0.2)
    project.close()  # a file whose log others have open cannot be had alone
    with calling(project, asynchronous) as caller:
        with locked(file_of(project)):
            is_degraded(caller, "locked by another process|did not answer within")
            with pytest.raises(StoreUnavailableError, match="locked by another process"):
                project.materialize()
        comes_back(caller)


# Damaged


@pytest.mark.parametrize("warm", [False, True], ids=["unopened", "open"])
@pytest.mark.parametrize("damage", ["header", "pages", "no database", "cut short", "emptied"])
def test_a_file_that_is_damaged(project: Project, asynchronous: bool, damage: str, warm: bool) -> None:
    project.materialize(full=True)
    project.close()
    path = file_of(project)
    assert not Path(f"{path}-wal").exists()
    held = path.read_bytes()
    with calling(project, asynchronous) as caller:
        if warm:
            is_present(caller.build())
        new = {
            "header": b"\0" * 100 + held[100:],
            "pages": held[:4096] + b"\x07" * (len(held) - 4096),
            "no database": b"this is no database " * 400,
            "cut short": held[: len(held) // 2 // 4096 * 4096],
            "emptied": b"",
        }[damage]
        assert len(held) > 8192
        with path.open("r+b") as file:  # in place: the same file, as a bad disk or a bad copy leaves it
            file.write(new)
            file.truncate(len(new))
        for _ in range(3):
            for prompt, expected in (("default", "u1 is unknown, watched 0"), ("none", "u1: nothing is known")):
                ctx = caller.build(prompt)
                if not warm:
                    assert (ctx.text, ctx.manifest.degraded) == (expected, True)
                elif not ctx.manifest.degraded:  # an open store may still have pages of before
                    assert ctx.text in (text_of("u1"), f"u1 watched {watched_of('u1')}")
        caller.close_store()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        ctx = caller.build()
        assert (ctx.text, ctx.manifest.degraded) == ("u1 is unknown, watched 0", True)
        project.materialize()
        comes_back(caller)


def test_a_damaged_page_is_told(project: Project, asynchronous: bool) -> None:
    project.close()
    path = file_of(project)
    held = bytearray(path.read_bytes())
    held[4096:] = b"\x07" * (len(held) - 4096)
    path.write_bytes(held)
    with calling(project, asynchronous) as caller:
        is_degraded(caller, "is damaged: delete it and run `llmfeatures materialize`")
    with pytest.raises(StoreUnavailableError, match="is damaged: delete it"):
        project.materialize(full=True)


# Gone


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_a_file_that_is_deleted_while_it_is_open(project: Project, asynchronous: bool, what: str) -> None:
    with calling(project, asynchronous) as caller:
        is_present(caller.build())
        if what == "the folder":
            shutil.rmtree(project.config.state)
        else:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{file_of(project)}{suffix}").unlink(missing_ok=True)
        ctx = caller.build()
        assert (ctx.text, ctx.manifest.degraded) == ("u1 is unknown, watched 0", True)
        project.materialize()
        comes_back(caller)


# No room

FILLER = """
import resource, sys
from llmfeatures import Project
from llmfeatures.errors import LLMFeaturesError
from tests.projects import NOW
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
project = Project.load(sys.argv[1], now=lambda: NOW)
try:
    project.materialize(full=True)
except LLMFeaturesError as error:
    print(type(error).__name__, error)
builder = project.builder()
print(builder.build_context("default", user_id="u1").text)
"""


def filler(root: Path, limit: int = 0) -> list[str]:
    command = [sys.executable, "-c", FILLER, str(root), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=Path.cwd())
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_file_that_may_not_grow(project: Project, tmp_path: Path, asynchronous: bool) -> None:
    """A write that fails half-way leaves what was there, and reads go on."""
    project.close()
    limit = file_of(project).stat().st_size // 2
    problem, *rest = filler(tmp_path, limit)
    assert problem.startswith("StoreUnavailableError the online store")
    assert rest == [text_of("u1")]
    with calling(project, asynchronous) as caller:
        comes_back(caller)
        assert project.materialize(full=True).keys_written == 2 * USERS
        comes_back(caller)


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path | None]:
    """A file system of that size; None where this process may mount none."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)


def fill(project: Project) -> None:
    """Materialize until the log must grow."""
    for _ in range(50):
        project.materialize(full=True)


def test_a_disk_that_is_full(tmp_path: Path, asynchronous: bool) -> None:
    with small_disk("512k") as disk:
        if disk is None:
            pytest.skip("needs the right to mount a file system")
        project = make(tmp_path)
        config = tmp_path / "llmfeatures.toml"
        config.write_text(config.read_text().replace('"sqlite"', f'"sqlite:{disk}/online.sqlite"'))
        project = again(tmp_path)
        project.materialize()
        with calling(project, asynchronous) as caller:
            is_present(caller.build())
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 1024)
            with pytest.raises(StoreUnavailableError, match="the disk is full"):
                fill(project)
            comes_back(caller)
            project.close()
            caller.close_store()  # and who opens the file now finds no room for SQLite's own files
            comes_back(caller)
            (disk / "filler").unlink()
            assert project.materialize(full=True).keys_written == 2 * USERS
            comes_back(caller)
        project.close()


# Read-only

READER = """
import os, sys
from pathlib import Path
from llmfeatures import Project
from llmfeatures.errors import StoreReadOnlyError
from tests.online.callers import Caller, is_present, make
from tests.projects import NOW

def tried(root):
    project = Project.load(root, now=lambda: NOW)
    for asynchronous in (False, True):
        caller = Caller(project, asynchronous=asynchronous)
        for _ in range(2):
            is_present(caller.build())
            try:
                project.materialize()
            except StoreReadOnlyError:
                print("read-only")
        caller.close()
    project.close()

make(Path(sys.argv[2])).materialize()
tried(sys.argv[2])  # loads all modules, which another user may not reach
if os.geteuid() == 0:  # root may write anywhere
    os.setgid(65534); os.setuid(65534)
tried(sys.argv[1])
"""


@pytest.mark.parametrize("case", ["folder and file", "file", "folder"])
def test_what_may_only_be_read_is_read(tmp_path: Path, case: str) -> None:
    root = Path(tempfile.mkdtemp())  # others can reach it, as they cannot pytest's folders
    try:
        root.chmod(0o755)
        project = make(root)
        project.materialize()
        project.close()
        for path in root.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        path = file_of(project)
        path.chmod(0o666 if case == "folder" else 0o444)
        path.parent.chmod(0o777 if case == "file" else 0o555)
        command = [sys.executable, "-c", READER, str(root), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=Path.cwd())
        assert done.stderr == ""
        assert done.stdout == "read-only\n" * 4
    finally:
        (root / ".llmfeatures").chmod(0o755)
        shutil.rmtree(root)


def test_a_database_of_another_program_is_refused(project: Project) -> None:
    """It is no outage: the configuration is wrong, and the error says so."""
    project.close()
    file_of(project).unlink()
    connection = sqlite3.connect(file_of(project))
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(Exception, match="is a database of something else: give the online store another path"):
        project.builder().build_context("default", user_id="u1")
