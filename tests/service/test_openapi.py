"""The OpenAPI document: typed from the registry, and kept by a real service, which schemathesis tries to break."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.service.world import Running, make_world, served

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def document(running: Running) -> Any:
    return running.client.get("/openapi.json").json()


def body_of(document: Any, path: str) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_each_prompt_and_view_has_a_path_with_its_own_types(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    names = ("all", "home", "strict", "support/answer")
    assert set(document["paths"]) == {
        "/v1/features", "/v1/registry", "/health/live", "/health/ready", "/metrics", "/v1/push/taste",
        *(f"/v1/prompts/{name}/{kind}" for name in names for kind in ("context", "contexts")),
    }  # fmt: skip
    assert body_of(document, "/v1/prompts/home/context") == {
        "type": "object",
        "properties": {"user_id": {"type": ["string", "null"]}},
        "required": ["user_id"],
        "additionalProperties": False,
    }
    answer = body_of(document, "/v1/prompts/support/answer/context")
    assert answer["required"] == [
        "asker_user_id", "owner_user_id", "place_tenant_id", "place_number", "question",
    ]  # fmt: skip
    assert answer["properties"]["place_number"] == {
        "type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1
    }  # fmt: skip
    assert answer["properties"]["question"] == {"type": "string", "maxLength": 200}
    assert answer["properties"]["tone"] == {"type": "string", "enum": ["warm", "dry"], "default": "warm"}
    assert answer["properties"]["price"]["pattern"] == r"^-?\d{1,6}(\.\d{1,2})?$"
    names = body_of(document, "/v1/features")["properties"]["features"]["items"]["enum"]
    assert {"genre", "user.genre", "seat.status", "scaled"} <= set(names)
    row = body_of(document, "/v1/push/taste")["properties"]["rows"]["items"]
    assert row["required"] == ["user_id", "genre"]
    assert row["properties"]["genre"] == {"type": ["string", "null"]}


def test_answers_are_what_the_document_says(document: Any, running: Running) -> None:
    ask = {"asker_user_id": "8a2f", "owner_user_id": None, "place_tenant_id": 1, "place_number": 2, "question": "?"}
    for prompt, given in (("all", {"user_id": "8a2f"}), ("all", {"user_id": "b13c"}), ("home", {"user_id": None}),
                          ("support/answer", ask)):  # fmt: skip
        schema = {**document, "$ref": f"#/components/schemas/Context.{prompt.replace('/', '.')}"}
        answer = running.context(prompt, **given).json()
        jsonschema_rs.validate(schema, answer)
        assert not jsonschema_rs.is_valid(schema, {**answer, "more": 1})


def attacked(url: str, folder: Path, *options: str) -> None:
    """Let schemathesis ask what it can think of."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
    done = subprocess.run(
        [*command, "--no-color", "--seed", "7", *options],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(running: Running, tmp_path: Path) -> None:
    attacked(
        running.url,
        tmp_path,
        "--max-examples",
        "1",
        "--phases",
        "coverage,fuzzing",
        "--exclude-path-regex",
        "contexts$",
    )


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_schemathesis_at_length(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="attacked")
    with served(root) as running:
        attacked(running.url, tmp_path, "--max-examples", "150")
        assert not running.lines("failure")
