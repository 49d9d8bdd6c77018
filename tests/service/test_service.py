"""The endpoints of a real service beside the builders in this process."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from llmfeatures import ContextBuilder, Project, PromptContext
from llmfeatures.service import create_app
from llmfeatures.service.log import RequestLog
from tests.service.world import Running, make_world, served

ANSWER = {"asker_user_id": "8a2f", "owner_user_id": None, "place_tenant_id": 1, "place_number": 2, "question": "Why?"}


def same(answer: httpx.Response, ctx: PromptContext) -> bool:
    """Whether an answer is this context, but for the id that each build has."""
    assert answer.status_code == 200, answer.text
    found = PromptContext.model_validate_json(answer.content)
    return found.model_copy(update={"request_id": ctx.request_id}) == ctx


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("home", {"user_id": "8a2f"}),
        ("home", {"user_id": None}),
        ("home", {"user_id": "nobody knows"}),
        ("all", {"user_id": "8a2f"}),
        ("all", {"user_id": "b13c"}),
        ("support/answer", ANSWER),
        ("support/answer", {**ANSWER, "price": "12.50", "at": "2026-05-07T22:00:00+02:00", "days": ["2026-01-02"]}),
        ("support/answer", {**ANSWER, "more": {"n": 2**70, "list": [None, 1.5]}, "tone": "dry"}),
    ],
)
def test_a_context_is_what_the_builder_builds(
    running: Running, builder: ContextBuilder, prompt: str, given: dict[str, Any]
) -> None:
    ctx = builder.build_context(prompt, **given)
    assert same(running.context(prompt, **given), ctx)


def test_a_json_input_is_the_json_value_itself(running: Running) -> None:
    answer = running.context("support/answer", **ANSWER, more="text")
    assert answer.json()["values"]["more"] == "text"


def test_history_and_many_rows(running: Running, builder: ContextBuilder) -> None:
    before = datetime.fromisoformat("2026-05-07T11:00:00Z")
    answer = running.client.post(
        "/v1/prompts/home/context", params={"as_of": "2026-05-07T11:00:00Z", "clock": "event"}, json={"user_id": "8a2f"}
    )
    assert same(answer, builder.build_context("home", as_of=before, clock="event", user_id="8a2f"))
    assert answer.json()["features"]["segment"]["status"] == "missing"
    rows = [{"user_id": "b13c"}, {"user_id": "8a2f"}, {"user_id": "b13c"}]
    found = running.client.post("/v1/prompts/home/contexts", json={"rows": rows}).json()["contexts"]
    expected = builder.build_contexts("home", rows)
    assert [one["messages"] for one in found] == [ctx.messages for ctx in expected]
    assert running.client.post("/v1/prompts/home/contexts", json={"rows": []}).json() == {"contexts": []}


def test_features_are_what_the_project_reads(running: Running, project: Project) -> None:
    body = {
        "features": ["scaled", "user.genre"],
        "rows": [{"user_id": "8a2f", "factor": 2.0}, {"user_id": None, "factor": 1}],
    }
    found = running.client.post("/v1/features", json=body).json()
    expected = project.get_online_features(body["features"], body["rows"])
    assert [{name: one["value"] for name, one in row.items()} for row in found["rows"]] == [
        {name: one.value for name, one in row.items()} for row in expected
    ]
    assert found["rows"][0]["user.genre"] == {
        "value": "drama", "status": "present", "event_timestamp": "2026-05-07T12:00:00.250000Z"
    }  # fmt: skip
    assert found["dtypes"] == {"scaled": "float", "user.genre": "str"}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        ("/v1/prompts/homer/context", {}, 404, "unknown_name", "did you mean 'home'"),
        ("/v1/push/tast", {}, 404, "unknown_name", "did you mean 'taste'"),
        ("/v1/push/seats", {}, 422, "request", "takes no pushes"),
        ("/v1/nothing", {}, 404, "not_found", "openapi.json"),
        ("/v1/prompts/home/context", {}, 422, "request", "user_id is required"),
        ("/v1/prompts/home/context", {"user_id": 8}, 422, "request", "user_id is of type str"),
        ("/v1/prompts/home/context", {"user_ids": "x"}, 422, "request", "did you mean 'user_id'"),
        ("/v1/prompts/home/context", {"user_id": "x", "timeout": "1s"}, 422, "request", "takes no 'timeout'"),
        ("/v1/prompts/home/context", ["user_id"], 422, "request", "one JSON object"),
        ("/v1/prompts/home/context?as_off=x", {"user_id": "x"}, 422, "request", "did you mean 'as_of'"),
        ("/v1/prompts/home/context?as_of=x", {"user_id": "x"}, 422, "request", "as_of"),
        ("/v1/prompts/home/context?timeout=5", {"user_id": "x"}, 422, "request", "no duration"),
        ("/v1/prompts/home/context?timeout=2h", {"user_id": "x"}, 422, "request", "at most 60s"),
        ("/v1/prompts/home/context?clock=event&clock=known", {"user_id": "x"}, 422, "request", "twice"),
        ("/v1/prompts/home/contexts", {"rows": [{"user_id": "x"}, {}]}, 422, "request", "row 1: user_id is required"),
        ("/v1/prompts/support/answer/context", {**ANSWER, "price": 12.5}, 422, "request", "written as a string"),
        ("/v1/prompts/strict/context", {"user_id": "b13c"}, 422, "feature_not_present", "'genre'"),
        ("/v1/features", {"features": [], "rows": []}, 422, "request", "one or more names"),
        ("/v1/features", {"features": ["genr"], "rows": []}, 404, "unknown_name", "did you mean 'genre'"),
        ("/v1/features", {"features": ["genre"], "rows": [{}]}, 422, "request", "row 0: user_id is required"),
        ("/v1/features", {"features": ["genre"], "row": []}, 422, "request", "takes no 'row'"),
    ],
)
def test_mistakes_are_told(running: Running, path: str, body: Any, status: int, code: str, says: str) -> None:
    answer = running.client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert says in answer.json()["error"]["message"]


def test_bodies_that_are_no_json(running: Running) -> None:
    head = {"content-type": "application/json"}
    for body in (b"{", b"", b"\xff", b'{"user_id": NaN}', b'{"user_id":"\\ud800"}'):
        answer = running.client.post("/v1/prompts/home/context", content=body, headers=head)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonish"):
        answer = running.client.post("/v1/prompts/home/context", content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "media_type")
    answer = running.client.get("/v1/features")
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["allow"]) == (
        405, "method_not_allowed", "POST",
    )  # fmt: skip


@pytest.mark.parametrize("depth", [200, 500, 900, 980, 1000, 1020, 1030, 100_000])
def test_a_body_that_nests_deeply_is_no_failure(running: Running, depth: int) -> None:
    head, nested = {"content-type": "application/json"}, "[" * depth + "]" * depth
    given = json.dumps(ANSWER)[:-1]
    for path, body in (
        ("/v1/prompts/support/answer/context", f'{given}, "more": {nested}}}'),
        ("/v1/prompts/support/answer/contexts", f'{{"rows": [{given}, "more": {nested}}}]}}'),
        ("/v1/features", f'{{"features": ["genre"], "rows": [{{"user_id": {nested}}}]}}'),
        ("/v1/push/taste", f'{{"rows": {nested}}}'),
    ):
        answer = running.client.post(path, content=body, headers=head)
        assert answer.status_code in (200, 400, 422), (path, answer.text[:200])
    digits = "9" * 5000
    answer = running.client.post(
        "/v1/prompts/support/answer/context", content=f'{given}, "more": {digits}}}', headers=head
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_paths_and_methods_that_are_not_there_are_counted_and_logged(running: Running) -> None:
    before = samples(running.client.get("/metrics").text)
    for method, path, status, route in (
        ("GET", "/wp-admin/secret", 404, "-"),
        ("GET", "/v1/registry/", 404, "-"),
        ("DELETE", "/v1/registry", 405, "/v1/registry"),
        ("GET", "/v1/prompts/home/context", 405, "/v1/prompts/{name}/context"),
    ):
        answer = running.client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert (running.lines()[-1]["route"], running.lines()[-1]["status"]) == (route, status)
    after = samples(running.client.get("/metrics").text)
    key = ("llmfeatures_requests_total", "404", "-", "-")
    assert after[key] - before.get(key, 0) == 2
    assert "secret" not in running.log.read_text()


def test_a_policy_error_has_the_feature_and_its_status(running: Running) -> None:
    error = running.context("strict", user_id="b13c").json()["error"]
    assert (error["feature"], error["status"]) == ("genre", "missing")


def test_the_registry_lists_what_can_be_asked_for(running: Running) -> None:
    found = running.client.get("/v1/registry").json()
    assert [one["name"] for one in found["prompts"]] == ["all", "home", "strict", "support/answer"]
    assert found["prompts"][3]["inputs"]["question"] == {
        "dtype": "str", "required": True, "default": None, "max_chars": 200
    }  # fmt: skip
    assert "parquet" not in json.dumps(found)


def test_health(running: Running) -> None:
    assert running.client.get("/health/live").json() == {"status": "live"}
    assert running.client.get("/health/ready").json() == {
        "status": "ready",
        "release": None,
        "reasons": [],
        "warnings": [],
    }


async def test_a_service_whose_prompts_are_all_broken_is_not_ready(world: Path, tmp_path: Path) -> None:
    project = Project.load(world)
    (tmp_path / "home.prompt.j2").write_text("{{ nothing_like_it }}")
    section = project.config.project.model_copy(update={"prompts": str(tmp_path)})
    config = project.config.model_copy(update={"project": section})
    app = create_app(Project(config, project.registry), log=RequestLog("off"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        answer = await client.get("/health/ready")
    assert (answer.status_code, [one["code"] for one in answer.json()["reasons"]]) == (503, ["prompt"])


def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world", materialize=False)
    broken = root / "prompts" / "broken.prompt.j2"
    broken.write_text("{{ nothing_like_it }}")
    with served(root) as running:
        answer = running.client.get("/health/ready")
        assert answer.status_code == 503
        assert [one["code"] for one in answer.json()["reasons"]] == ["not_filled"]
        assert "profile, taste, seats" in answer.json()["reasons"][0]["message"]
        (warning,) = answer.json()["warnings"]
        assert warning["code"] == "prompt"
        assert "'broken'" in warning["message"]
        assert samples(running.client.get("/metrics").text)["llmfeatures_broken_prompts",] == 1
        assert running.context("broken").json()["error"]["code"] == "prompt"
        degraded = running.context("home", user_id="8a2f").json()
        assert degraded["manifest"]["degraded"]
        project = Project.load(root)
        project.materialize()
        project.close()
        deadline = time.monotonic() + 20
        while answer.status_code == 503:
            assert time.monotonic() < deadline
            answer = running.client.get("/health/ready")
        assert answer.json() == {"status": "ready", "release": None, "reasons": [], "warnings": [warning]}
        assert not running.context("home", user_id="8a2f").json()["manifest"]["degraded"]


def samples(text: str) -> dict[tuple[str, ...], float]:
    """The samples of a scrape, by name and sorted label values."""
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_metrics_count_what_happens_and_show_no_values(running: Running) -> None:
    before = samples(running.client.get("/metrics").text)
    running.context("home", user_id="secret-user")
    running.context("strict", user_id="secret-user")
    answer = running.client.get("/metrics")
    after = samples(answer.text)
    assert answer.headers["content-type"].startswith("text/plain")
    route = "/v1/prompts/{name}/context"

    def rise(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert rise("llmfeatures_requests_total", "200", "home", route) == 1
    assert rise("llmfeatures_requests_total", "422", "strict", route) == 1
    assert rise("llmfeatures_features_total", "home", "missing") == 3
    assert rise("llmfeatures_request_seconds_count", "home", route) == 1
    assert rise("llmfeatures_request_seconds_bucket", "+Inf", "home", route) == 1
    assert rise("llmfeatures_request_seconds_sum", "home", route) > 0
    assert "secret-user" not in answer.text
    assert "drama" not in answer.text
    modern = running.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.text.endswith("# EOF\n")


def test_metrics_have_the_numbers_of_status(running: Running) -> None:
    found = samples(running.client.get("/metrics").text)
    assert found["llmfeatures_online_store_reachable",] == 1


def test_the_log_has_a_line_per_request_without_values(running: Running) -> None:
    ctx = running.context("home", user_id="secret-user").json()
    running.client.post("/v1/prompts/home/context", json={"user_id": {"secret": "secret-user"}})
    lines = running.lines()
    (line,) = [one for one in lines if one["request_id"] == ctx["request_id"]]
    assert (line["route"], line["prompt"], line["status"]) == ("/v1/prompts/{name}/context", "home", 200)
    assert line["ms"] > 0
    datetime.fromisoformat(line["time"])
    assert lines[-1]["status"] == 422
    text = running.log.read_text()
    assert "secret" not in text
    assert "drama" not in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115
    log = RequestLog("json", full)
    log.event("info", "started")
    with suppress(OSError):
        full.close()
    log.event("info", "stopped")
    log.flush()


async def test_the_application_can_be_mounted_and_extended(world: Path) -> None:
    app = create_app(Project.load(world), log=RequestLog("off"))

    @app.get("/own")
    def own() -> dict[str, int]:
        return {"answer": 42}

    outer = FastAPI()
    outer.mount("/inner", app)
    async with app.router.lifespan_context(app):  # as a server, or the outer application's lifespan, enters it
        for one, prefix in ((app, ""), (outer, "/inner")):
            transport = httpx.ASGITransport(one)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                answer = await client.post(f"{prefix}/v1/prompts/home/context", json={"user_id": "8a2f"})
                assert answer.status_code == 200
                assert (await client.get(f"{prefix}/own")).json() == {"answer": 42}
    assert "/own" in app.openapi()["paths"]
    assert "/v1/prompts/home/context" in app.openapi()["paths"]


async def test_a_middleware_that_was_added_sees_every_request(world: Path) -> None:
    app = create_app(Project.load(world), log=RequestLog("off"))
    seen: list[str] = []

    class Watching:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await self.inner(scope, receive, send)

    app.add_middleware(Watching)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        answer = await client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
    assert answer.status_code == 200
    assert seen == ["/v1/prompts/home/context"]


async def test_what_fails_unexpectedly_is_500_and_its_text_is_not_shown(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("w") as stream:
        app = create_app(Project.load(world), log=RequestLog("json", stream))

        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("a value: drama")

        monkeypatch.setattr("llmfeatures.builder.AsyncContextBuilder.build_context", fail)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answer = await client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
        await asyncio.sleep(0.05)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "drama" not in answer.text + log.read_text()
    assert "ZeroDivisionError" in log.read_text()
