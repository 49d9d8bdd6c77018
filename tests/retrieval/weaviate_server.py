"""A server that speaks Weaviate's wire from memory, REST and gRPC, with the protocol buffers of its official client:
what that sends and reads, with the filters evaluated as Weaviate documents them. Runs as a process of its own:
``python -m tests.retrieval.weaviate_server`` prints its two ports.
"""

# the protocol buffers of the client are partly typed, numpy's functions too
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false
from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from weaviate.proto.v1 import (
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from tests.retrieval.weaviate_rules import Held, RefusedError, State, floats, holds, unit, with_defaults

VERSION = "1.32.4"
MOST = 10_000


class Servicer(weaviate_pb2_grpc.WeaviateServicer):
    """The part that is spoken to in gRPC."""

    def __init__(self, state: State) -> None:
        self.state = state

    def Search(self, request: Any, context: Any) -> Any:
        """A search, or a page of objects."""
        return self._answer(request, context, "search", self._search)

    def BatchObjects(self, request: Any, context: Any) -> Any:
        """Objects to keep."""
        return self._answer(request, context, "batch", self._batch)

    def BatchDelete(self, request: Any, context: Any) -> Any:
        """Objects to remove."""
        return self._answer(request, context, "delete", self._delete)

    def _answer(self, request: Any, context: Any, name: str, work: Any) -> Any:
        state = self.state
        if state.delay:
            time.sleep(state.delay)
        given = {one.key: one.value for one in context.invocation_metadata()}
        with state.lock:
            state.log.append([name, MessageToDict(request)])
            if state.faults:
                context.abort(grpc.StatusCode[state.faults.pop(0)], "on purpose")
            if state.key and given.get("authorization") != f"Bearer {state.key}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "unauthorized: invalid api key")
            try:
                return work(request)
            except RefusedError as error:
                context.abort(grpc.StatusCode.UNKNOWN, f"explorer: {error}")

    def _kinds(self, name: str) -> dict[str, dict[str, Any]]:
        if name not in self.state.schema:
            raise RefusedError(f"could not find class {name} in schema")
        return {one["name"]: one for one in self.state.schema[name]["properties"]}

    def _search(self, request: Any) -> Any:
        kinds = self._kinds(request.collection)
        if request.limit > MOST:
            raise RefusedError("query maximum results exceeded")
        objects = self.state.objects[request.collection]
        names = sorted(objects)
        if request.HasField("filters"):
            if request.after:
                raise RefusedError("where cannot be set with after and limit parameters")
            held = [name for name in names if holds(request.filters, kinds, name, objects[name])]
            names = names if self.state.deaf else held
        if request.after:
            names = [name for name in names if name > request.after]
        distances: dict[str, float] = {}
        if request.HasField("near_vector"):
            given = request.near_vector
            wanted = unit(floats(given.vectors[0].vector_bytes if given.vectors else given.vector_bytes))
            for name in names:
                vector = objects[name].vector
                if vector is None:
                    continue
                if len(vector) != len(wanted):
                    raise RefusedError(f"vector lengths don't match: {len(vector)} vs {len(wanted)}")
                distances[name] = float(np.float32(1.0) - np.float32(vector @ wanted))
            names = sorted(distances, key=lambda name: (distances[name], name[::-1]))
        for by in reversed(request.sort_by):
            (path,) = by.path
            names.sort(key=lambda name: name[::-1])
            names.sort(key=lambda name: objects[name].properties[path], reverse=not by.ascending)
        reply = search_get_pb2.SearchReply(took=0.001)
        for name in names[: request.limit or 10]:
            result = reply.results.add()
            result.metadata.id = name
            result.metadata.id_as_bytes = uuid.UUID(name).bytes
            if request.metadata.distance and name in distances:
                result.metadata.distance = distances[name]
                result.metadata.distance_present = True
            result.properties.target_collection = request.collection
            properties = objects[name].properties
            every = request.properties.return_all_nonref_properties
            for one in properties if every else request.properties.non_ref_properties:
                if one not in kinds:
                    raise RefusedError(f"no such prop with name {one!r}")
                result.properties.non_ref_props.fields[one].CopyFrom(_value(properties.get(one)))
        return reply

    def _batch(self, request: Any) -> Any:
        reply = batch_pb2.BatchObjectsReply(took=0.001)
        for index, one in enumerate(request.objects):
            try:
                self._keep(one)
            except RefusedError as error:
                reply.errors.add(index=index, error=str(error))
        return reply

    def _keep(self, one: Any) -> None:
        kinds = self._kinds(one.collection)
        properties: dict[str, Any] = {}
        for name, value in one.properties.non_ref_properties.items():
            kind = kinds.get(name)
            if kind is None:
                raise RefusedError(f"no such prop with name {name!r} found")
            if kind["dataType"] == ["int"]:
                if not isinstance(value, float) or not value.is_integer():
                    raise RefusedError(f"invalid integer property {name!r}")
                properties[name] = int(value)
            elif isinstance(value, str):
                properties[name] = value
            else:
                raise RefusedError(f"invalid text property {name!r}")
        packed = one.vectors[0].vector_bytes if one.vectors else one.vector_bytes
        vector = unit(floats(packed)) if packed else None
        objects = self.state.objects[one.collection]
        if vector is not None:
            for held in objects.values():
                if held.vector is not None:
                    if len(held.vector) != len(vector):
                        raise RefusedError(f"vector lengths don't match: {len(held.vector)} vs {len(vector)}")
                    break
        objects[str(uuid.UUID(one.uuid))] = Held(properties, vector)

    def _delete(self, request: Any) -> Any:
        kinds = self._kinds(request.collection)
        objects = self.state.objects[request.collection]
        names = [name for name, held in objects.items() if holds(request.filters, kinds, name, held)]
        for name in names:
            del objects[name]
        return batch_delete_pb2.BatchDeleteReply(took=0.001, matches=len(names), successful=len(names), failed=0)


def _value(value: Any) -> Any:
    if value is None:
        return properties_pb2.Value(null_value="NULL_VALUE")
    return properties_pb2.Value(int_value=value) if isinstance(value, int) else properties_pb2.Value(text_value=value)


class Rest:
    """The part that is spoken to in REST."""

    def __init__(self, state: State) -> None:
        self.state = state

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        """Status and body of an answer."""
        state = self.state
        if path.startswith("/fake/"):
            return 200, self._fake(path.removeprefix("/fake/"), body)
        if path == "/v1/.well-known/openid-configuration":
            return 404, None
        if path == "/v1/.well-known/ready":
            return 200, None
        with state.lock:
            state.log.append([f"{method} {path}", body])
            if state.key and headers.get("authorization") != f"Bearer {state.key}":
                return 401, {"code": 401, "message": "unauthorized: invalid api key"}
            if path == "/v1/meta":
                return 200, {"hostname": "http://[::]:8080", "modules": {}, "version": VERSION}
            if path == "/v1/schema" and method == "POST":
                try:
                    made = with_defaults(body, list(state.schema))
                except RefusedError as error:
                    return 422, {"error": [{"message": str(error)}]}
                state.schema[made["class"]], state.objects[made["class"]] = made, {}
                return 200, made
            name = path.removeprefix("/v1/schema/")
            if not path.startswith("/v1/schema/") or name not in state.schema:
                return 404, None
            match method:
                case "GET":
                    return 200, state.schema[name]
                case "PUT":
                    for part in ("class", "properties", "vectorConfig", "shardingConfig"):
                        if body[part] != state.schema[name][part]:
                            return 422, {"error": [{"message": f"{part} is immutable"}]}
                    state.schema[name] = body
                    return 200, body
                case "DELETE":
                    del state.schema[name], state.objects[name]
                    return 200, None
                case _:
                    return 405, None

    def _fake(self, what: str, body: Any) -> Any:
        state = self.state
        with state.lock:
            match what:
                case "clear":
                    state.schema.clear()
                    state.objects.clear()
                    state.log.clear()
                    state.faults.clear()
                    state.key, state.delay, state.deaf = "", 0.0, False
                case "set":
                    for name, value in body.items():
                        setattr(state, name, value)
                case "describe":
                    state.schema[body["class"]]["description"] = body["description"]
                case "retokenize":
                    for one in state.schema[body["class"]]["properties"]:
                        if one["name"] == body["property"]:
                            one["tokenization"] = body["tokenization"]
                case "drop":
                    state.schema.clear()
                    state.objects.clear()
                case "corrupt":
                    for held in state.objects[body["class"]].values():
                        held.properties.update(body["properties"])
                case _:
                    pass
            return {"log": state.log, "schema": state.schema}


def _handler(rest: Rest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: the second would wait for an acknowledgement

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer = rest.answer(self.command, self.path, headers, json.loads(body) if body else None)
            written = b"" if answer is None else json.dumps(answer).encode()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

    return Handler


def serve() -> None:
    """Serve until the input ends."""
    state = State()
    server = grpc.server(ThreadPoolExecutor(16))
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(Servicer(state), server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", 0), _handler(Rest(state)))
    rest.daemon_threads = True
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    sys.stdout.write(f"{rest.server_address[1]} {grpc_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None)


class WeaviateServer:
    """The server, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.retrieval.weaviate_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port, self.grpc_port = map(int, self._process.stdout.readline().split())
        self.url = f"weaviate://127.0.0.1:{self.port}?grpc={self.grpc_port}"

    def tell(self, what: str, **body: Any) -> Any:
        """Tell the server how to be; it says what it was asked, and what collections it has."""
        request = Request(f"http://127.0.0.1:{self.port}/fake/{what}", data=json.dumps(body).encode(), method="POST")
        with urlopen(request) as answer:
            return json.load(answer)

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    serve()
