"""When Redis fails: features are unavailable, the prompt's policy decides, the manifest tells, and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from llmfeatures import Project
from llmfeatures.errors import LLMFeaturesError, StoreReadOnlyError, StoreUnavailableError
from tests import servers
from tests.online.callers import (
    HANGS,
    SLACK,
    USERS,
    Caller,
    again,
    comes_back,
    is_degraded,
    is_present,
    make,
    text_of,
    watched_of,
)
from tests.online.proxy import Fault, Proxy, proxy_to
from tests.online.test_safety import forking, in_child
from tests.projects import NOW
from tests.servers import Server

PATIENT = "20s"
"""A timeout that no call meets: for what must not depend on how busy the machine is."""


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def project(redis_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project that is filled, on the session's server."""
    project = make(tmp_path, online=redis_server.url)
    project.materialize()
    yield project
    project.close()


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[Proxy]:
    with proxy_to(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, whose replicas need not wait."""
    with servers.start_redis(options=["--repl-diskless-sync-delay", "0"]) as server:
        yield server


@contextlib.contextmanager
def calling(project: Project, asynchronous: bool) -> Iterator[Caller]:
    caller = Caller(project, asynchronous=asynchronous)
    try:
        yield caller
    finally:
        caller.close()


def filled(root: Path, server: Server, **options: str) -> Project:
    project = make(root, online=server.url, **options)
    project.materialize()
    return project


# Down, and back


def test_a_server_that_dies_and_comes_back_with_its_data(tmp_path: Path, asynchronous: bool) -> None:
    data = tmp_path / "data of redis"
    data.mkdir()
    keeping = ["--dir", str(data), "--dbfilename", "dump.rdb"]
    with servers.start_redis(options=keeping) as server:
        project = filled(tmp_path, server)
        server.client().save()
        port = server.port
        caller = Caller(project, asynchronous=asynchronous)
        is_present(caller.build())
        server.process.kill()
        server.process.wait()
        is_degraded(caller, f"cannot reach the online store redis://127.0.0.1:{port}.*see that it runs")
        with pytest.raises(StoreUnavailableError, match="cannot reach the online store"):
            project.materialize()
        with servers.start_redis(port=port, options=keeping):
            comes_back(caller)
            caller.close()
            project.close()


def test_a_server_that_comes_back_empty_is_unavailable_until_it_is_filled(tmp_path: Path, asynchronous: bool) -> None:
    with servers.start_redis() as server:
        project, port = filled(tmp_path, server, timeout=PATIENT), server.port
        caller = Caller(project, asynchronous=asynchronous)
        is_present(caller.build())
    with servers.start_redis(port=port) as server:
        ctx = caller.build()
        assert (ctx.text, ctx.manifest.degraded) == ("u1 is unknown, watched 0", True)
        assert "was never filled" in (ctx.manifest.problem or "")
        project.materialize()
        comes_back(caller)
        caller.close()
        project.close()


def test_calls_go_on_through_restarts(tmp_path: Path, asynchronous: bool) -> None:
    """One after another, while the server is killed and started: its users' values or none, and no error."""
    data = tmp_path / "data of redis"
    data.mkdir()
    keeping = ["--dir", str(data), "--dbfilename", "dump.rdb"]
    stop = threading.Event()
    seen = {True: 0, False: 0}
    failed: list[BaseException] = []

    def call(caller: Caller) -> None:
        try:
            turn = 0
            while not stop.is_set():
                user = f"u{turn % USERS}"
                ctx = caller.build(user=user)
                if not ctx.manifest.degraded:
                    is_present(ctx, user)
                seen[ctx.manifest.degraded] += 1
                turn += 1
        except BaseException as error:
            failed.append(error)
        finally:
            caller.close()

    with servers.start_redis(options=keeping) as server:
        project, port = filled(tmp_path, server), server.port
        server.client().save()
        shared = Caller(project, asynchronous=False)
        # an event loop belongs to one thread; a sync builder is shared
        callers = [Caller(project, asynchronous=True) if asynchronous else shared for _ in range(3)]
        threads = [threading.Thread(target=call, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        server.process.kill()
        server.process.wait()
        for _ in range(3):
            time.sleep(0.1)
            with servers.start_redis(port=port, options=keeping) as again_there:
                time.sleep(0.2)
                again_there.process.kill()
                again_there.process.wait()
        with servers.start_redis(port=port, options=keeping):
            comes_back(shared)
            stop.set()
            for thread in threads:
                thread.join(30)
            shared.close()
            project.close()
    assert failed == []
    assert seen[True] > 0
    assert seen[False] > 0


def test_a_server_that_was_never_there(tmp_path: Path, asynchronous: bool) -> None:
    port = servers.free_port()
    project = make(tmp_path, online=f"redis://:secret@127.0.0.1:{port}/0")
    with calling(project, asynchronous) as caller:
        is_degraded(caller, "cannot reach the online store")
        assert "secret" not in str(caller.build().manifest.problem)


def test_a_server_that_is_still_loading(tmp_path: Path, asynchronous: bool) -> None:
    data = tmp_path / "data of redis"
    data.mkdir()
    keeping = ["--dir", str(data), "--dbfilename", "dump.rdb"]
    with servers.start_redis(options=keeping) as server:
        project, port, client = filled(tmp_path, server, timeout=PATIENT), server.port, server.client()
        for number in range(400):
            client.set(f"other:{number}", "x" * 1000)
        client.save()
    slowly = ["--key-load-delay", "2500", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"]
    with (
        servers.start_redis(port=port, options=[*keeping, *slowly]) as server,
        calling(project, asynchronous) as caller,
    ):
        is_degraded(caller, "is still loading its data: try again soon")
        client = server.client()
        _until(lambda: not client.info("persistence")["loading"])
        comes_back(caller)
    project.close()


# Slow


@contextlib.contextmanager
def dripping() -> Iterator[int]:
    """The port of a server whose one reply never ends; a byte of it comes every now and then."""
    over = threading.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                writer.write(b"+")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.transport.abort()

    async def main(ready: Callable[[int], None]) -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        ready(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(over.wait)
        server.close()
        await asyncio.sleep(0.1)

    ports: list[int] = []
    thread = threading.Thread(target=lambda: asyncio.run(main(ports.append)))
    thread.start()
    try:
        _until(lambda: ports)
        yield ports[0]
    finally:
        over.set()
        thread.join(HANGS)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that no connection is made to, and none is refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("url", ["redis://HOST/0", "redis://HOST/3", "redis://:secret@HOST/0", "rediss://HOST/0"])
@pytest.mark.parametrize("place", [dripping, black_hole, silence])
def test_a_connection_that_comes_to_nothing(
    tmp_path: Path, url: str, place: Callable[[], contextlib.AbstractContextManager[int]], asynchronous: bool
) -> None:
    """Connecting, TLS and the login take no more than the timeout together."""
    with place() as port:
        project = make(tmp_path, online=url.replace("HOST", f"127.0.0.1:{port}"), timeout="100ms")
        with calling(project, asynchronous) as caller:
            start = time.monotonic()
            ctx = caller.build()
            assert time.monotonic() - start < 0.1 + SLACK
            assert (ctx.text, ctx.manifest.degraded) == ("u1 is unknown, watched 0", True)
        project.close()


def test_a_server_that_stands_still(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project = filled(tmp_path, own)
    with calling(project, asynchronous) as caller:
        is_present(caller.build())
        os.kill(own.process.pid, signal.SIGSTOP)
        try:
            is_degraded(caller, r"did not answer within 0\.25 s")
            assert caller.build(timeout="20ms").manifest.problem is not None
        finally:
            os.kill(own.process.pid, signal.SIGCONT)
        comes_back(caller)
    project.close()


def test_a_server_that_is_busy_with_a_script(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project, client = filled(tmp_path, own, timeout=PATIENT), own.client()
    client.config_set("busy-reply-threshold", 1)
    with calling(project, asynchronous) as caller:
        is_present(caller.build())
        script = threading.Thread(target=_forever, args=(own.client(),))
        script.start()
        try:
            _until(lambda: _is_busy(client))
            is_degraded(caller, "is busy with a long script")
        finally:
            client.script_kill()
            script.join(20)
        comes_back(caller)
    project.close()


def _forever(client: redis.Redis) -> None:
    with contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


def _until(true: object) -> None:
    deadline = time.monotonic() + 20
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Full, read-only, failing over


def test_a_full_server_refuses_writes_and_reads_go_on(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project, client = filled(tmp_path, own, timeout=PATIENT), own.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    with calling(project, asynchronous) as caller:
        with pytest.raises(StoreUnavailableError, match="is out of memory: raise its maxmemory"):
            project.materialize(full=True)
        comes_back(caller)
        client.config_set("maxmemory", 0)
        assert project.materialize(full=True).keys_written == 2 * USERS
        comes_back(caller)
    project.close()


@pytest.mark.parametrize("what", ["full", "down"])
def test_a_push_is_kept_while_the_store_takes_nothing(tmp_path: Path, what: str, asynchronous: bool) -> None:
    with servers.start_redis() as server:
        port = server.port
        make(tmp_path, online=server.url)
        registry = tmp_path / "features.yaml"
        held = registry.read_text()
        registry.write_text(held.replace("source: data/watched.parquet", "source: {batch: data/watched.parquet}"))
        project = again(tmp_path, timeout=PATIENT)
        project.materialize()
        if what == "full":
            server.client().config_set("maxmemory", 1)
            report = project.push("activity", [{"user_id": "u1", "watched": 7, "event_timestamp": NOW}])
            server.client().config_set("maxmemory", 0)
    if what == "down":
        report = project.push("activity", [{"user_id": "u1", "watched": 7, "event_timestamp": NOW}])
    assert (report.rows, report.online) == (1, False)
    assert ("out of memory" if what == "full" else "cannot reach the online store") in (report.problem or "")
    with servers.start_redis(port=port), calling(project, asynchronous) as caller:
        (failure,) = project.state.failures("activity")
        assert (failure.verb, failure.message) == ("push", report.problem)
        project.materialize()
        assert caller.build(user="u1").text.endswith(", watched 7")
        assert caller.build(user="u2").text == text_of("u2")
    project.close()


def test_a_replica_is_read_and_not_written(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    filled(tmp_path, own).close()
    with servers.start_redis(options=["--replicaof", "127.0.0.1", str(own.port)]) as replica:
        _until(lambda: replica.client().dbsize() == own.client().dbsize())
        project = again(tmp_path, online=(own.url, replica.url), timeout=PATIENT)
        with calling(project, asynchronous) as caller:
            is_present(caller.build())
            with pytest.raises(StoreReadOnlyError, match=r"may not be written from here \(READONLY\)"):
                project.materialize()
            replica.client().config_set("replica-serve-stale-data", "no")
            own.process.kill()
            own.process.wait()
            _until(lambda: replica.client().info("replication")["master_link_status"] == "down")
            is_degraded(caller, "is a replica that lost its primary")
            replica.client().replicaof("NO", "ONE")
            comes_back(caller)
            assert project.materialize(full=True).keys_written == 2 * USERS
        project.close()


def test_a_failover_behind_one_address(tmp_path: Path, own: Server, proxy: Proxy, asynchronous: bool) -> None:
    """The primary is lost, nothing answers for a while, and then the address leads to what was the replica."""
    filled(tmp_path, own).close()
    with servers.start_redis(options=["--replicaof", "127.0.0.1", str(own.port)]) as replica:
        _until(lambda: replica.client().dbsize() == own.client().dbsize())
        proxy.upstream = own.port
        project = again(tmp_path, online=(own.url.removesuffix("/0"), proxy.url))
        with calling(project, asynchronous) as caller:
            comes_back(caller)
            own.process.kill()
            own.process.wait()
            proxy.refusing = True
            proxy.cut_all()
            is_degraded(caller, "cannot reach the online store")
            replica.client().replicaof("NO", "ONE")
            proxy.upstream, proxy.refusing = replica.port, False
            comes_back(caller)
            assert project.materialize(full=True).keys_written == 2 * USERS
        project.close()


# Not let in


def test_a_password_that_is_wrong(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    filled(tmp_path, own).close()
    own.client().config_set("requirepass", "right")
    address = own.url.removeprefix("redis://")
    for given, problem in (("", "wants a password"), (":wrong@", "does not know this user or password")):
        project = again(tmp_path, online=(own.url, f"redis://{given}{address}"), timeout=PATIENT)
        with calling(project, asynchronous) as caller:
            is_degraded(caller, problem)
            assert "wrong@" not in str(caller.build().manifest.problem)
        project.close()
        again(tmp_path, online=(f"redis://{given}{address}", own.url))
    project = again(tmp_path, online=(own.url, f"redis://:right@{address}"), timeout=PATIENT)
    with calling(project, asynchronous) as caller:
        comes_back(caller)
    project.close()


def test_a_password_that_is_changed_under_way(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project = filled(tmp_path, own, timeout=PATIENT)
    client = own.client()
    with calling(project, asynchronous) as caller:
        is_present(caller.build())
        client.config_set("requirepass", "right")
        client.client_kill_filter(skipme=True)
        is_degraded(caller, "wants a password")
        client.config_set("requirepass", "")
        comes_back(caller)
    project.close()


def test_logins(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    """What a connection says first is right, and said again by the next one."""
    client = own.client()
    client.execute_command("ACL", "SETUSER", "someone", "on", ">right", "~*", "+@all")
    for login, database in (
        ("", 0),
        ("", 2),
        (":right@", 0),
        (":right@", 3),
        ("someone:right@", 0),
        ("someone:right@", 4),
    ):
        client.config_set("requirepass", "right" if login else "")
        project = make(tmp_path, online=f"redis://{login}127.0.0.1:{own.port}/{database}", timeout=PATIENT)
        project.materialize()
        assert client.info("keyspace")[f"db{database}"]["keys"] > USERS
        with calling(project, asynchronous) as caller:
            for user in ("u1", "u2"):
                is_present(caller.build(user=user), user)
                client.client_kill_filter(skipme=True)
        project.close()
        client.flushall()


def test_a_database_that_the_server_has_not(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project = make(tmp_path, online=own.url.removesuffix("/0") + "/99", timeout=PATIENT)
    with calling(project, asynchronous) as caller:
        is_degraded(caller, "has no database of that number: correct the URL")
    project.close()


def test_a_user_who_may_not_read(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    filled(tmp_path, own).close()
    rights = "on >secret ~* +echo +hget +hgetall +select"
    client = own.client()
    client.execute_command("ACL", "SETUSER", "reader", *rights.split())
    url = own.url.replace("redis://", "redis://reader:secret@")
    project = again(tmp_path, online=(own.url, url), timeout=PATIENT)
    with calling(project, asynchronous) as caller:
        is_degraded(caller, "does not allow its user what reading needs")
        client.execute_command("ACL", "SETUSER", "reader", "+hmget")
        comes_back(caller)
    project.close()


def test_more_clients_than_the_server_takes(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    project = filled(tmp_path, own, timeout=PATIENT)
    project.close()
    client = own.client()
    client.ping()
    client.config_set("maxclients", 1)
    with calling(project, asynchronous) as caller:
        is_degraded(caller, "online store")
        client.config_set("maxclients", 100)
        comes_back(caller)
    project.close()


def test_connections_that_the_server_closes(tmp_path: Path, own: Server, asynchronous: bool) -> None:
    """Nobody notices: an idle connection that was closed is opened again."""
    project, client = filled(tmp_path, own, timeout=PATIENT), own.client()
    with calling(project, asynchronous) as caller:
        for user in range(USERS):
            client.client_kill_filter(skipme=True)
            is_present(caller.build(user=f"u{user}"), f"u{user}")
    project.close()


# Dropped, or cut, mid-reply


def through(project: Project, root: Path, server: Server, proxy: Proxy, timeout: str) -> Project:
    project.close()
    return again(root, online=(server.url.removesuffix("/0"), proxy.url), timeout=timeout)


@pytest.mark.parametrize("fault", ["cut", "reset", "half", "swallow"])
def test_a_reply_that_ends_at_any_byte(
    project: Project, tmp_path: Path, redis_server: Server, proxy: Proxy, fault: Fault, asynchronous: bool
) -> None:
    slow = fault in ("half", "swallow")
    project = through(project, tmp_path, redis_server, proxy, "30ms" if slow else PATIENT)
    with calling(project, asynchronous) as caller:
        is_present(caller.build(timeout=PATIENT))
        sizes: list[int] = []
        proxy.place = lambda size: sizes.append(size) or 0
        proxy.fault = lambda: "cut"
        assert caller.build(timeout=PATIENT).manifest.degraded
        whole = sizes[0]
        assert whole > 100
        for place in [0] if fault == "swallow" else range(0, whole, 16 if slow else 3):
            proxy.place, proxy.fault = (lambda _, place=place: place), lambda: None
            is_present(caller.build(user="u2", timeout=PATIENT), "u2")
            proxy.fault = lambda: fault
            ctx = caller.build()
            assert (ctx.text, ctx.manifest.degraded) == ("u1 is unknown, watched 0", True), place
            assert ctx.manifest.problem
            proxy.fault = lambda: None
            is_present(caller.build(user="u3", timeout=PATIENT), "u3")
    project.close()


def test_a_byte_that_is_another(
    project: Project, tmp_path: Path, redis_server: Server, proxy: Proxy, asynchronous: bool
) -> None:
    """At every place: the user's own values, or none, or a typed error; but for the bytes of a value itself, which
    nothing on the way covers (TLS does)."""
    project = through(project, tmp_path, redis_server, proxy, "100ms")
    with calling(project, asynchronous) as caller:
        is_present(caller.build(timeout=PATIENT))
        sizes: list[int] = []
        proxy.place = lambda size: sizes.append(size) or 0
        proxy.fault = lambda: "twice"
        with contextlib.suppress(LLMFeaturesError):
            caller.build(timeout=PATIENT)
        proxy.fault = lambda: None
        is_present(caller.build(timeout=PATIENT))
        sizes.clear()
        proxy.fault = lambda: "garble"
        with contextlib.suppress(LLMFeaturesError):
            caller.build()
        for at in range(0, sizes[0], 2):
            for byte in (0x00, 0x2D, 0x39, 0xC3):
                proxy.place = lambda size, at=at, byte=byte: byte if size == 256 else at
                proxy.fault = lambda: "garble"
                with contextlib.suppress(LLMFeaturesError):
                    ctx = caller.build()
                    assert ctx.manifest.degraded or ctx.text.startswith("u1 is "), at
                    assert "u2" not in ctx.text
                proxy.fault = lambda: None
                is_present(caller.build(user="u2", timeout=PATIENT), "u2")
    project.close()


# The whole call


SECOND = "one that asks for the meta record too"


@pytest.mark.parametrize("call", ["the first one", SECOND])
def test_the_timeout_is_of_the_whole_call(
    project: Project, tmp_path: Path, redis_server: Server, proxy: Proxy, call: str, asynchronous: bool
) -> None:
    """Exchanges that are each in time are together too late."""
    project = through(project, tmp_path, redis_server, proxy, "500ms")
    with calling(project, asynchronous) as caller:
        if call == SECOND:
            is_present(caller.build(timeout=PATIENT))
        proxy.delay = lambda: 0.35
        ctx = caller.build(user="nobody" if call == SECOND else "u1")
        assert ctx.manifest.degraded
        assert "did not answer within" in (ctx.manifest.problem or "")
        proxy.delay = float
        comes_back(caller)
    project.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_tls(project: Project, tmp_path: Path, redis_server: Server, certificate: Path, asynchronous: bool) -> None:
    project.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with proxy_to(redis_server.port, tls=context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificate}"
        project = again(tmp_path, online=(redis_server.url, url), timeout=PATIENT)
        with calling(project, asynchronous) as caller:
            comes_back(caller)
            proxy.cut_all()
            proxy.settle()
            comes_back(caller)
            proxy.fault = lambda: "reset"
            is_degraded(caller, "cannot reach the online store rediss://127.0.0.1")
            proxy.fault = lambda: "swallow"
            assert "did not answer within 0.1 s" in str(caller.build(timeout="100ms").manifest.problem)
            proxy.fault = lambda: None
            comes_back(caller)
            assert project.materialize(full=True).keys_written == 2 * USERS
        project.close()
        project = again(tmp_path, online=(url, url.partition("?")[0]), timeout=PATIENT)
        with calling(project, asynchronous) as caller:
            is_degraded(caller, "certificate verify failed")
        project.close()


# Forks


@pytest.mark.parametrize("online", ["redis", "sqlite"])
def test_a_builder_in_parent_and_children(
    tmp_path: Path, redis_server: Server, online: str, asynchronous: bool
) -> None:
    """All of them go on with the builder that the parent used before it forked, at the same time."""
    project = make(tmp_path, online=redis_server.url if online == "redis" else online, timeout=PATIENT)
    project.materialize()
    with calling(project, asynchronous) as caller:

        def right(builds: Caller) -> bool:
            for turn in range(60):
                users = [f"u{(turn + step) % USERS}" for step in range(3)]
                is_present(builds.build(user=users[0]), users[0])
                for ctx, user in zip(builds.build_many("default", users), users, strict=True):
                    is_present(ctx, user)
                assert [one[1] for one in builds.features(users)] == [watched_of(user) for user in users]
            return True

        assert right(caller)
        with forking():
            children = [in_child(lambda: right(caller.in_new_process())) for _ in range(4)]
        assert right(caller)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        assert right(caller)
    project.close()
