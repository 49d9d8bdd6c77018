"""A REST endpoint on the engine of Qdrant (``qdrant-edge-py``: its Rust code in this process), for tests. There is no
binary of the server in any package registry, so this speaks the part of its protocol that the store uses; what it is
sent must fit the schema of the official client, which rejects unknown fields."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import models

_KINDS = {
    models.PayloadSchemaType.KEYWORD: edge.PayloadSchemaType.Keyword,
    models.PayloadSchemaType.INTEGER: edge.PayloadSchemaType.Integer,
    models.PayloadSchemaType.BOOL: edge.PayloadSchemaType.Bool,
}


class Engine:
    """Collections, each a shard of the engine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards = folder, dict[str, Any]()
        self.lock = threading.RLock()
        self.made = 0
        self.key: str | None = None
        self.answer: int | None = None
        """A status that is answered to whatever is asked."""
        self.log: list[str] = []
        self.refused: list[str] = []
        """Why requests were refused."""

    def handle(self, method: str, path: str, body: Any) -> Any:
        """The result of a request; None where there is no such collection.

        Raises:
            ValidationError: it does not fit the client's schema.
            KeyError: there is no such operation.
        """
        _, top, name, *rest = path.split("/")
        assert top == "collections"
        name, operation = unquote(name), f"{method} {'/'.join(rest)}".strip()
        with self.lock:
            self.log.append(operation)
            if operation == "GET exists":
                return {"exists": name in self.shards}
            if operation == "PUT":
                return self._create(name, models.CreateCollection.model_validate(body))
            if operation == "DELETE":
                found = self.shards.pop(name, None)
                if found is not None:
                    found.close()
                return found is not None
            operations: dict[str, Callable[[Any, Any], Any]] = {
                "PUT index": self._index,
                "PUT points": self._upsert,
                "POST points": self._retrieve,
                "POST points/payload": self._set_payload,
                "POST points/scroll": self._scroll,
                "POST points/delete": self._delete,
                "POST points/query/batch": self._query,
            }
            return operations[operation](self.shards[name], body) if name in self.shards else None

    def optimize(self, name: str) -> None:
        """Make the index of the vectors, which a server makes when it finds the time."""
        with self.lock:
            self.shards[name].optimize()
            assert self.shards[name].info().indexed_vectors_count

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()

    def _create(self, name: str, asked: models.CreateCollection) -> bool:
        vectors = asked.vectors or {}
        assert isinstance(vectors, dict)
        distances = {models.Distance.COSINE: edge.Distance.Cosine}
        self.made += 1
        place = self.folder / str(self.made)
        place.mkdir()
        self.shards[name] = edge.EdgeShard.create(
            str(place),
            edge.EdgeConfig(
                vectors={
                    one: edge.EdgeVectorParams(size=given.size, distance=distances[given.distance])
                    for one, given in vectors.items()
                },
                wal_enabled=False,
                max_search_threads=1,
                hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10),
                optimizers=edge.EdgeOptimizersConfig(indexing_threshold=10, default_segment_number=1),
            ),
        )
        return True

    def _index(self, shard: Any, body: Any) -> Any:
        asked = models.CreateFieldIndex.model_validate(body)
        schema: Any = asked.field_schema
        if isinstance(schema, models.KeywordIndexParams):
            made: Any = edge.KeywordIndexParams(is_tenant=schema.is_tenant)
        elif isinstance(schema, models.IntegerIndexParams):
            made = edge.IntegerIndexParams(lookup=schema.lookup, range=schema.range)
        else:
            made = _KINDS[schema]
        shard.update(edge.UpdateOperation.create_field_index(asked.field_name, made))
        return _done()

    def _upsert(self, shard: Any, body: Any) -> Any:
        asked = models.PointsList.model_validate(body)
        points = [edge.Point(_id(one.id), one.vector, one.payload) for one in asked.points]  # pyright: ignore[reportArgumentType]
        shard.update(edge.UpdateOperation.upsert_points(points))
        return _done()

    def _set_payload(self, shard: Any, body: Any) -> Any:
        asked = models.SetPayload.model_validate(body)
        shard.update(edge.UpdateOperation.set_payload([_id(one) for one in asked.points or []], asked.payload))
        return _done()

    def _delete(self, shard: Any, body: Any) -> Any:
        asked = models.PointIdsList.model_validate(body)
        shard.update(edge.UpdateOperation.delete_points([_id(one) for one in asked.points]))
        return _done()

    def _retrieve(self, shard: Any, body: Any) -> Any:
        asked = models.PointRequest.model_validate(body)
        return [_shown(one) for one in shard.retrieve([_id(one) for one in asked.ids], True, False)]

    def _scroll(self, shard: Any, body: Any) -> Any:
        asked = models.ScrollRequest.model_validate(body)
        points, following = shard.scroll(
            edge.ScrollRequest(
                offset=None if asked.offset is None else _id(asked.offset),
                limit=asked.limit,
                with_payload=bool(asked.with_payload),
                with_vector=False,
            )
        )
        return {
            "points": [_shown(one) for one in points],
            "next_page_offset": str(following) if isinstance(following, UUID) else following,
        }

    def _query(self, shard: Any, body: Any) -> Any:
        asked = models.QueryRequestBatch.model_validate(body)
        return [{"points": self._found(shard, one)} for one in asked.searches]

    def _found(self, shard: Any, asked: models.QueryRequest) -> list[Any]:
        query: Any = None
        if isinstance(asked.query, models.NearestQuery):
            query = edge.Query.Nearest(asked.query.nearest, using=asked.using)  # pyright: ignore[reportArgumentType]
        elif isinstance(asked.query, models.OrderByQuery):
            order: Any = asked.query.order_by
            assert order.direction == models.Direction.DESC
            query = edge.OrderBy(order.key, edge.Direction.Desc)
        else:
            assert asked.query is None
        # the bindings of the engine make 1 of True, so this one condition is looked at here
        must: list[Any] = list(asked.filter.must) if asked.filter is not None else []  # pyright: ignore[reportArgumentType]
        flags = [one for one in must if isinstance(one, models.FieldCondition) and _flag(one) is not None]
        limit = asked.limit or 10
        found = shard.query(
            edge.QueryRequest(
                limit=100_000 if flags else limit,
                query=query,
                filter=edge.Filter(must=[_condition(one) for one in must if one not in flags]),
                with_payload=bool(asked.with_payload),
            )
        )
        for one in flags:
            found = [point for point in found if point.payload["metadata"][one.key.split(".")[1]] is _flag(one)]
        found = found[:limit]
        return [{**_shown(one), "version": one.version, "score": one.score} for one in found]


def _done() -> dict[str, Any]:
    return {"operation_id": 0, "status": "completed"}


def _id(given: Any) -> Any:
    return UUID(given) if isinstance(given, str) else given


def _shown(point: Any) -> dict[str, Any]:
    return {"id": str(point.id) if isinstance(point.id, UUID) else point.id, "payload": point.payload}


def _flag(one: models.FieldCondition) -> bool | None:
    value = one.match.value if isinstance(one.match, models.MatchValue) else None
    return value if isinstance(value, bool) else None


def _condition(one: Any) -> Any:
    if isinstance(one, models.HasIdCondition):
        return edge.HasIdCondition({_id(name) for name in one.has_id})
    if isinstance(one, models.IsEmptyCondition):
        return edge.IsEmptyCondition(one.is_empty.key)
    assert isinstance(one, models.FieldCondition)
    if isinstance(one.match, models.MatchValue):
        return edge.FieldCondition(one.key, match=edge.MatchValue(one.match.value))
    assert isinstance(one.range, models.Range)
    bounds = one.range
    made = edge.RangeFloat(gte=bounds.gte, gt=bounds.gt, lte=bounds.lte, lt=bounds.lt)
    return edge.FieldCondition(one.key, range=made)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    engine: Engine

    def do_GET(self) -> None:
        self._handle()

    do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.engine.answer is not None:
            self._say(self.engine.answer, None)
        elif self.engine.key is not None and self.headers.get("api-key") != self.engine.key:
            self._say(401, None)
        else:
            try:
                result = self.engine.handle(self.command, urlsplit(self.path).path, body)
            except Exception as error:
                self.engine.refused.append(f"{type(error).__name__}: {error}")
                self._say(400, {"error": str(error)})
            else:
                self._say(404 if result is None else 200, result)

    def _say(self, status: int, result: Any) -> None:
        whole = {"result": result, "status": "ok" if status == 200 else {"error": str(result)}, "time": 0.0}
        content = json.dumps(whole).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


@contextlib.contextmanager
def qdrant_server() -> Generator[tuple[Engine, str]]:
    """An engine behind HTTP on loopback, and its ``qdrant://`` URL, for the length of a block."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as folder:
        engine = Engine(Path(folder))
        server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"engine": engine}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield engine, f"qdrant://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
            engine.close()
