"""A server that speaks Pinecone's data plane (API 2026-07) from memory: what the official client sends and reads, with
the limits and refusals that its documentation states."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

KEY = "a-key-of-the-tests"
MOST = 10_000
METADATA_BYTES = 40_960
REQUEST_BYTES = 2 * 1024 * 1024
RESULT_BYTES = 4 * 1024 * 1024


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message, "details": []}


def invalid(message: str) -> RefusedError:
    """400, as Pinecone answers to what it cannot understand."""
    return RefusedError(400, 3, message)


@dataclass
class Namespace:
    """Vectors by id, and what goes with them."""

    vectors: dict[str, Any] = field(default_factory=dict[str, Any])
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


@dataclass
class Fault:
    """What the next answers are instead."""

    status: int
    times: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class PineconeServer:
    """One index of a given dimension, on a port of its own."""

    def __init__(self, dimension: int, metric: str = "cosine") -> None:
        self.dimension, self.metric = dimension, metric
        self.namespaces: dict[str, Namespace] = {}
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self.delay = 0.0
        self.deaf = False
        self.lock = threading.Lock()
        server = self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        self.port: int = server.server_address[1]
        self.url = f"pinecone+http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clear(self) -> None:
        """As it was when it started."""
        with self.lock:
            self.namespaces.clear()
            self.requests.clear()
            self.headers.clear()
            self.faults.clear()
            self.delay, self.deaf = 0.0, False

    def asked(self, path: str) -> list[Any]:
        """The requests of a path."""
        return [body for one, body in self.requests if one == path]

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], Any]:
        """The status, headers and body of an answer."""
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        given: Any = json.loads(body) if body else query
        if self.delay:
            time.sleep(self.delay)
        with self.lock:
            self.requests.append((parts.path, given))
            self.headers.append(headers)
            if self.faults:
                fault = self.faults[0]
                fault.times -= 1
                if fault.times == 0:
                    self.faults.pop(0)
                return fault.status, dict(fault.headers), {"code": 14, "message": "on purpose", "details": []}
            if headers.get("api-key") != KEY:
                return 401, {}, "Unauthorized"
            if len(body) > REQUEST_BYTES:
                raise RefusedError(413, 3, "message length too large")
            return 200, {}, self._routed(method, parts.path, given)

    def _routed(self, method: str, path: str, given: Any) -> Any:
        match method, path:
            case "POST", "/vectors/upsert":
                return self.upsert(given)
            case "POST", "/query":
                return self.query(given)
            case "POST", "/vectors/delete":
                return self.delete(given)
            case "POST", "/describe_index_stats":
                return self.stats()
            case "GET", "/vectors/fetch":
                return self.fetch(given)
            case "GET", "/vectors/list":
                return self.listed(given)
            case _:
                raise RefusedError(404, 5, "no such path")

    def upsert(self, given: Mapping[str, Any]) -> Any:
        """``POST /vectors/upsert``: all of them, or none."""
        if not 1 <= len(given["vectors"]) <= 1_000:
            raise invalid("a request has from 1 to 1000 vectors")
        for one in given["vectors"]:
            checked_id(one["id"])
            self.checked_vector(one["values"])
            metadata = one.get("metadata") or {}
            if len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()) > METADATA_BYTES:
                raise invalid(f"Metadata size exceeds the limit of {METADATA_BYTES} bytes per vector")
            for name, value in metadata.items():
                if not (
                    isinstance(value, (str, bool, int, float))
                    or (isinstance(value, list) and all(isinstance(each, str) for each in value))
                ):
                    raise invalid(f"Metadata value must be a string, number, boolean or list of strings ({name!r})")
        space = self.namespaces.setdefault(given.get("namespace", ""), Namespace())
        for one in given["vectors"]:
            space.vectors[one["id"]] = np.asarray(one["values"], dtype=np.float32)
            space.metadata[one["id"]] = {
                name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
                for name, value in (one.get("metadata") or {}).items()
            }
        return {"upsertedCount": len(given["vectors"])}

    def checked_vector(self, values: Any) -> None:
        """That a vector is of this index."""
        if len(values) != self.dimension:
            raise invalid(f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}")
        if not any(values):
            raise invalid("Dense vectors must contain at least one non-zero value.")

    def query(self, given: Mapping[str, Any]) -> Any:
        """``POST /query``. Those of one score come in no order that anyone may count on."""
        if not 1 <= given["topK"] <= MOST:
            raise invalid(f"topK must be from 1 to {MOST}")
        self.checked_vector(given["vector"])
        space = self.namespaces.get(given.get("namespace", ""), Namespace())
        wanted = np.asarray(given["vector"], dtype=np.float32)
        condition = given.get("filter")
        heard = {"entity": {"$exists": True}} if self.deaf else condition
        names = [name for name in space.vectors if heard is None or holds(heard, space.metadata[name])]
        scores: list[float] = []
        if names:
            matrix = np.stack([space.vectors[name] for name in names])
            lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted) if self.metric == "cosine" else 1.0
            scores = ((matrix @ wanted) / lengths).astype(np.float32).tolist()
        best = sorted(zip(scores, names, strict=True), key=lambda one: (-one[0], one[1][::-1]))[: given["topK"]]
        matches: list[dict[str, Any]] = []
        for score, name in best:
            match: dict[str, Any] = {"id": name, "score": score}
            if given.get("includeMetadata"):
                match["metadata"] = space.metadata[name]
            if given.get("includeValues"):
                match["values"] = space.vectors[name].tolist()
            matches.append(match)
        if len(json.dumps(matches)) > RESULT_BYTES:
            raise invalid("result size exceeds 4MB")
        return {"matches": matches, "namespace": given.get("namespace", ""), "usage": {"readUnits": 1}}

    def delete(self, given: Mapping[str, Any]) -> Any:
        """``POST /vectors/delete``."""
        space = self.namespaces.get(given.get("namespace", ""))
        if space is None:
            raise RefusedError(404, 5, "Namespace not found")
        if len(given.get("ids", ())) > 1_000:
            raise invalid("a request has at most 1000 ids")
        names = list(space.vectors) if given.get("deleteAll") else given["ids"]
        for name in names:
            space.vectors.pop(name, None)
            space.metadata.pop(name, None)
        return {}

    def stats(self) -> Any:
        """``POST /describe_index_stats``."""
        counts = {name or "__default__": {"vectorCount": len(one.vectors)} for name, one in self.namespaces.items()}
        return {
            "namespaces": counts,
            "dimension": self.dimension,
            "indexFullness": 0,
            "totalVectorCount": sum(len(one.vectors) for one in self.namespaces.values()),
            "metric": self.metric,
            "vectorType": "dense",
        }

    def fetch(self, given: Mapping[str, list[str]]) -> Any:
        """``GET /vectors/fetch``."""
        name = given.get("namespace", [""])[0]
        space = self.namespaces.get(name, Namespace())
        found = {
            one: {"id": one, "values": space.vectors[one].tolist(), "metadata": space.metadata[one]}
            for one in given["ids"]
            if one in space.vectors
        }
        return {"vectors": found, "namespace": name, "usage": {"readUnits": 1}}

    def listed(self, given: Mapping[str, list[str]]) -> Any:
        """``GET /vectors/list``: a page, and a token for the next."""
        name, limit = given.get("namespace", [""])[0], int(given.get("limit", ["100"])[0])
        if not 1 <= limit <= 100:
            raise invalid("limit must be from 1 to 100")
        after = given.get("paginationToken", [""])[0]
        names = sorted(one for one in self.namespaces.get(name, Namespace()).vectors if one > after)
        answer: dict[str, Any] = {
            "vectors": [{"id": one} for one in names[:limit]],
            "namespace": name,
            "usage": {"readUnits": 1},
        }
        if len(names) > limit:
            answer["pagination"] = {"next": names[limit - 1]}
        return answer


def checked_id(name: str) -> None:
    """That an id is one."""
    if not (name and name.isascii() and "\x00" not in name and len(name) <= 512):
        raise invalid("an id is from 1 to 512 ASCII characters")


def holds(condition: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether metadata is what a filter says. Several conditions in one mapping count together; a number is compared
    as a double, with numbers only."""
    for name, wanted in condition.items():
        if name == "$and":
            if not all(holds(one, metadata) for one in wanted):
                return False
        elif name == "$or":
            if not any(holds(one, metadata) for one in wanted):
                return False
        elif name.startswith("$"):
            raise invalid(f"unknown operator {name!r}")
        else:
            conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            if not all(compared(operator, metadata.get(name), value) for operator, value in conditions.items()):
                return False
    return True


def compared(operator: str, found: Any, wanted: Any) -> bool:
    """Whether a value is what one operator says."""
    if operator == "$exists":
        return (found is not None) == wanted
    if wanted is None or isinstance(wanted, dict):
        raise invalid("a filter's value is a string, a number or a boolean")
    if operator in ("$in", "$nin"):
        return (operator == "$in") == any(compared("$eq", found, one) for one in wanted)
    if operator in ("$eq", "$ne"):
        same = wanted in found if isinstance(found, list) else alike(found) == alike(wanted)
        return same == (operator == "$eq")
    if isinstance(wanted, (str, bool)):
        raise invalid(f"{operator} takes a number")
    if isinstance(found, (str, bool, list)) or found is None:
        return False
    match operator:
        case "$gt":
            return float(found) > float(wanted)
        case "$gte":
            return float(found) >= float(wanted)
        case "$lt":
            return float(found) < float(wanted)
        case "$lte":
            return float(found) <= float(wanted)
        case _:
            raise invalid(f"unknown operator {operator!r}")


def alike(value: Any) -> tuple[str, Any]:
    """A value that is equal to those of its own type only."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    return "number", float(value)


def _handler(index: PineconeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: the second would wait for an acknowledgement

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                status, more, answer = index.answer(self.command, self.path, headers, body)
            except RefusedError as error:
                status, more, answer = error.status, {}, error.body
            written = json.dumps(answer).encode()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(written)))
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(written)

        def handle(self) -> None:
            with suppress(ConnectionResetError, BrokenPipeError):
                super().handle()

    return Handler
