"""Golden bytes of format 1: what other programs, and other versions of this one, find in a store."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from llmfeatures.codec import FORMAT
from llmfeatures.online.layout import Layout
from llmfeatures.online.redis import RedisStore
from llmfeatures.online.rows import belongs, prefix_of
from llmfeatures.online.sqlite import APPLICATION_ID, SqliteStore
from llmfeatures.ports import OnlineStore, Read, RowWrite, ViewFields, ViewMeta
from tests.servers import Server

TASTE = ViewFields(name="taste", features=("last_genre", "score", "titles"))
ROWS = [
    RowWrite(
        "tenant_id:1:user_id:a%20b",
        TASTE,
        "2026-05-07T22:00:00.000000Z",
        "2026-05-07T22:05:00.000001Z",
        ('"film noir"', "null", '["é"]'),
    ),
    RowWrite(
        "tenant_id:1:user_id:a%20b",
        ViewFields(name="segment", features=("user_segment",)),
        "2026-05-06T00:00:00.000000Z",
        "-",
        ('"power_user"',),
    ),
]
NOW = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
HASH = {
    "@key": r"tenant_id:1:user_id:a%20b",
    "@taste": r"2026-05-07T22:00:00\.000000Z\|2026-05-07T22:05:00\.000001Z\|" + NOW,
    "@segment": r"2026-05-06T00:00:00\.000000Z\|-\|" + NOW,
    "last_genre": '"film noir"',
    "score": "null",
    "titles": r'\["é"\]',
    "user_segment": '"power_user"',
}
META = {"@format": "1", "@lifetime": "[0-9a-f]{32}", "taste": r"5f1c\|2026-05-07T23:00:00\.000000Z"}


def fill(store: OnlineStore) -> None:
    """Write the golden rows."""
    lifetime = store.begin().meta.lifetime
    store.write(ROWS)
    mark = ViewMeta(schema_hash="5f1c", watermark="2026-05-07T23:00:00.000000Z")
    store.complete("taste", mark, lifetime=lifetime, base=None)
    store.close()


def assert_golden(found: dict[str, str], golden: dict[str, str]) -> None:
    assert sorted(found) == sorted(golden)
    for field, pattern in golden.items():
        assert re.fullmatch(pattern, found[field]), field


def test_the_format_number() -> None:
    """Whoever changes what lies in a store changes this number too."""
    assert FORMAT == 1


@pytest.mark.parametrize("server_name", ["redis_server", "valkey_server"])
def test_redis(request: pytest.FixtureRequest, server_name: str, namespace: str) -> None:
    server: Server = request.getfixturevalue(server_name)
    fill(RedisStore(server.url, namespace))
    with server.client() as client:
        keys = [key for key in client.scan_iter() if key.startswith(namespace)]
        assert sorted(keys) == [f"{namespace}:@meta", f"{namespace}:tenant_id:1:user_id:a%20b"]
        assert_golden(client.hgetall(f"{namespace}:tenant_id:1:user_id:a%20b"), HASH)
        assert_golden(client.hgetall(f"{namespace}:@meta"), META)


def test_sqlite(tmp_path: Path) -> None:
    fill(SqliteStore(tmp_path / "online.sqlite", "streaming"))
    connection = sqlite3.connect(tmp_path / "online.sqlite")
    cells = connection.execute("SELECT key, field, value FROM cells").fetchall()
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,) == (0x6C6C6D66,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT sql FROM sqlite_master").fetchone() == (
        "CREATE TABLE cells (key TEXT, field TEXT, value TEXT, PRIMARY KEY (key, field)) WITHOUT ROWID",
    )
    connection.close()
    by_key: dict[str, dict[str, str]] = {}
    for key, field, value in cells:
        by_key.setdefault(key, {})[field] = value
    assert sorted(by_key) == ["streaming:@meta", "streaming:tenant_id:1:user_id:a%20b"]
    assert_golden(by_key["streaming:tenant_id:1:user_id:a%20b"], HASH)
    assert_golden(by_key["streaming:@meta"], META)


def test_a_read_as_bytes() -> None:
    reads = [Read("user_id:8a2f", ("last_genre", "@taste")), Read("user_id:é", ())]
    assert Layout("streaming").request(reads) == (
        b"*5\r\n$5\r\nHMGET\r\n$22\r\nstreaming:user_id:8a2f\r\n$10\r\nlast_genre\r\n$6\r\n@taste\r\n$4\r\n@key\r\n"
        b"*3\r\n$5\r\nHMGET\r\n$20\r\nstreaming:user_id:\xc3\xa9\r\n$4\r\n@key\r\n"
    )


@pytest.mark.parametrize(
    ("namespace", "prefix"),
    [("streaming", "streaming:"), ("a:user_id", "a%3Auser_id:"), ("é*", "%C3%A9%2A:"), ("A-z._~@+0", "A-z._~@+0:")],
)
def test_namespaces(namespace: str, prefix: str) -> None:
    assert prefix_of(namespace) == prefix


@pytest.mark.parametrize(
    ("key", "join_keys", "whether"),
    [
        ("user_id:1", ("user_id",), True),
        ("user_id:", ("user_id",), True),
        ("user_id:1:other:2", ("user_id",), False),
        ("user_id:1:other:2", ("user_id", "other"), True),
        ("user_id:1:other:2", ("other", "user_id"), False),
        ("@meta", ("user_id",), False),
        ("user_id:user_id", ("user_id",), True),
    ],
)
def test_whose_key_a_key_is(key: str, join_keys: tuple[str, ...], whether: bool) -> None:
    assert belongs(key, join_keys) is whether


def test_the_script_is_in_the_package() -> None:
    folder = Path(Layout.__init__.__globals__["__file__"]).parent
    assert (folder / "newest_wins.lua").exists()
