"""The SQLite store keeps the contract; and what is the file's own."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures.errors import FormatError, StoreUnavailableError
from llmfeatures.online.rows import prefix_of
from llmfeatures.online.sqlite import AsyncSqliteStore, SqliteStore
from llmfeatures.ports import OnlineStore, Read
from llmfeatures.testing.online import ACTIVITY, NEVER, USER, OnlineStoreTests, activity, key_of

NAMESPACE = "a:b [x]*%"


class TestSqlite(OnlineStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        self.path = tmp_path / "state?#%" / "online.sqlite"
        store = SqliteStore(self.path, NAMESPACE, timeout=20)
        yield store
        store.close()

    @pytest.fixture
    def async_store(self, store: SqliteStore) -> AsyncSqliteStore:
        return AsyncSqliteStore(self.path, NAMESPACE, timeout=20)

    def raw(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        connection = sqlite3.connect(self.path, timeout=20)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def raw_get(self, store: OnlineStore, key: str) -> dict[str, str]:
        if not self.path.exists():
            return {}
        return dict(self.raw("SELECT field, value FROM cells WHERE key = ?", prefix_of(NAMESPACE) + key))

    def raw_set(self, store: OnlineStore, key: str, field: str, value: str) -> None:
        self.raw("INSERT OR REPLACE INTO cells VALUES (?, ?, ?)", prefix_of(NAMESPACE) + key, field, value)

    def raw_delete_all(self, store: OnlineStore) -> None:
        self.raw("DELETE FROM cells")


class TestSqliteDeletedAndMadeAgain(TestSqlite):
    """A flush by hand: the files are deleted under the open store."""

    def raw_delete_all(self, store: OnlineStore) -> None:
        shutil.rmtree(self.path.parent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "online.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, "ns")
    yield store
    store.close()


def one(user: object) -> list[Read]:
    return [Read(key_of(user), ("watch_count",))]


def test_reading_makes_nothing(store: SqliteStore, path: Path) -> None:
    assert store.read(one(1)) == [[None]]
    assert store.meta() is None
    assert store.sweep(ACTIVITY, USER, NEVER) == 0
    assert not path.parent.exists()


def test_an_empty_file_is_an_empty_store(store: SqliteStore, path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert store.read(one(1)) == [[None]]
    assert store.meta() is None
    store.write([activity(1)])
    assert store.read(one(1)) == [["1"]]


def test_two_namespaces_in_one_file(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path, "ns2")
    store.write([activity(1, count=1)])
    other.write([activity(1, count=2)])
    assert (store.read(one(1)), other.read(one(1))) == ([["1"]], [["2"]])
    assert store.begin().meta.lifetime != other.begin().meta.lifetime
    assert store.sweep(ACTIVITY, USER, NEVER) == 1
    assert other.read(one(1)) == [["2"]]
    other.close()


def test_an_open_store_sees_the_file_that_was_put_there(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Replacing the file is how a store is restored or flushed by hand."""
    fresh = SqliteStore(tmp_path / "fresh.sqlite", "ns")
    fresh.write([activity(1, count=2)])
    fresh.close()
    store.write([activity(1, count=1)])
    assert store.read(one(1)) == [["1"]]
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    (tmp_path / "fresh.sqlite").replace(path)
    assert store.read(one(1)) == [["2"]]
    path.unlink()
    assert store.read(one(1)) == [[None]]
    assert store.meta() is None


# What else may lie there


def test_a_file_of_another_format(store: SqliteStore, path: Path) -> None:
    store.begin()
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    for call in (lambda: store.read(one(1)), store.meta, store.begin, lambda: store.write([activity(1)])):
        with pytest.raises(FormatError, match=r"online\.sqlite holds format 7.*materialize"):
            call()


def test_a_database_of_something_else(store: SqliteStore, path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cells (a)")
    connection.close()
    for call in (lambda: store.read(one(1)), lambda: store.write([activity(1)])):
        with pytest.raises(FormatError, match="another path"):
            call()


@pytest.mark.parametrize("held", [b"no database at all, but text" * 99, b"x"])
def test_a_file_that_is_no_database(store: SqliteStore, path: Path, held: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(held)
    for call in (lambda: store.read(one(1)), lambda: store.write([activity(1)])):
        with pytest.raises(StoreUnavailableError, match=r"online\.sqlite is no database"):
            call()
    assert path.read_bytes() == held


def test_a_damaged_file(store: SqliteStore, path: Path) -> None:
    store.write([activity(user) for user in range(1000)])
    store.close()
    held = bytearray(path.read_bytes())
    held[4096:] = b"\x07" * (len(held) - 4096)
    path.write_bytes(held)
    with pytest.raises(StoreUnavailableError, match="damaged: delete it"):
        store.read(one(1))


def test_a_folder_where_the_file_should_be(store: SqliteStore, path: Path) -> None:
    path.mkdir(parents=True)
    for call in (lambda: store.read(one(1)), lambda: store.write([activity(1)])):
        with pytest.raises(StoreUnavailableError, match=r"online\.sqlite cannot be opened"):
            call()


def test_a_file_where_the_folder_should_be(store: SqliteStore, path: Path) -> None:
    path.parent.write_text("")
    with pytest.raises(StoreUnavailableError, match=r"online\.sqlite cannot be used"):
        store.write([activity(1)])


# Who may write

READER = """
import os, sys
from llmfeatures.errors import StoreReadOnlyError
from llmfeatures.online.sqlite import SqliteStore
from llmfeatures.testing.online import activity, key_of
from llmfeatures.ports import Read
if os.geteuid() == 0:  # root may write anywhere
    os.setgid(65534); os.setuid(65534)
store = SqliteStore(sys.argv[1], "ns")
for _ in range(2):
    print(store.read([Read(key_of(1), ("watch_count",))]))
    try:
        store.write([activity(1, 9)])
    except StoreReadOnlyError as error:
        print("read-only", error)
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that others can reach, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "state" / "online.sqlite"
    (folder / "state").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", ["folder and file", "file", "folder", "nothing there"])
def test_where_nothing_may_be_written(shared: Path, case: str) -> None:
    shared.parent.mkdir()
    if case != "nothing there":
        store = SqliteStore(shared, "ns")
        store.write([activity(1)])
        store.close()
        shared.chmod(0o666 if case == "folder" else 0o444)
    shared.parent.chmod(0o777 if case == "file" else 0o555)
    command = [sys.executable, "-c", READER, str(shared)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=Path.cwd())
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    expected = "[[None]]" if case == "nothing there" else "[['1']]"
    assert lines[::2] == [expected] * 2
    assert all(line.startswith(f"read-only the online store {shared} may not") for line in lines[1::2])
    assert len(lines) == 4


# Others at the same time


def test_readers_do_not_wait_for_a_writer(store: SqliteStore, path: Path) -> None:
    store.write([activity(1)])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM cells")
    start = time.monotonic()
    assert store.read(one(1)) == [["1"]]
    assert time.monotonic() - start < 0.2
    writer.execute("ROLLBACK")
    writer.close()


def test_a_writer_waits_for_another(store: SqliteStore, path: Path) -> None:
    store.write([activity(1)])
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    threading.Timer(0.6, writer.execute, ["ROLLBACK"]).start()
    assert store.write([activity(1, 1)]).written == 1
    writer.close()


def test_a_lock_that_is_never_given_back(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmfeatures.online.sqlite._WRITE_TIMEOUT", 0.2)
    store.write([activity(1)])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked by another process"):
        store.write([activity(1, 1)])
    writer.close()
    assert store.write([activity(1, 1)]).written == 1


MAKER = """
import sys
from llmfeatures.online.sqlite import SqliteStore
from llmfeatures.testing.online import activity
for path in sys.stdin:
    store = SqliteStore(path.strip(), "ns")
    print(store.begin().meta.lifetime, store.write([activity(sys.argv[1])]).written, flush=True)
"""


def test_many_processes_make_the_file_at_once(path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path.cwd(),
        )
        for number in range(6)
    ]
    for turn in range(20):
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write(f"{path.with_name(str(turn))}\n")
            maker.stdin.flush()
        answers = [maker.stdout.readline().split() for maker in makers if maker.stdout]
        assert [answer[1] for answer in answers] == ["1"] * 6
        assert len({answer[0] for answer in answers}) == 1
    for maker in makers:
        maker.communicate(timeout=60)


def open_files() -> int:
    """How many files this process has open, where that can be known."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_no_connection_is_left_open(path: Path) -> None:
    store = SqliteStore(path, "ns")
    before = open_files()
    store.write([activity(1)])
    for _ in range(3):
        threads = [threading.Thread(target=store.read, args=(one(1),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.close()
    assert not Path(f"{path}-wal").exists()  # the last connection to close takes the log in
    assert open_files() <= before


async def test_async_reads_have_a_timeout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AsyncSqliteStore(path, "ns")
    monkeypatch.setattr(SqliteStore, "meta", lambda self, timeout: time.sleep(0.5))
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"within 0\.1 s"):
        await store.meta(timeout=0.1)
    assert time.monotonic() - start < 0.4
