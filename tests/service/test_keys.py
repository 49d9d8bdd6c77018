"""API keys: the file, scopes, the entity that a key is bound to, and taking one back."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmfeatures import AsyncClient, Client, Project
from llmfeatures.cli.app import run
from llmfeatures.errors import ConfigError, FormatError, RequestError, UnknownNameError
from llmfeatures.service import create_app
from llmfeatures.service.keys import KeyFile, KeyRing
from llmfeatures.service.log import RequestLog
from llmfeatures.service.run import check_address
from tests.service.world import Running, make_world, served

NOW = datetime(2026, 5, 7, 22, 0, 0, 5, tzinfo=UTC)
GOLDEN = """{
 "format": 1,
 "keys": [
  {
   "id": "0123456789ab",
   "name": "web",
   "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
   "scopes": [
    "read",
    "prompts:*"
   ],
   "created": "2026-05-07T22:00:00Z",
   "entity": {
    "user_id": "8a2f"
   }
  }
 ]
}
"""


def test_a_key_is_kept_as_a_hash_that_only_its_owner_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path / "state" / "keys.json")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789ab")
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: "secret")
    key, token = file.add("web", ["read", "prompts:*"], now=NOW, entity={"user_id": "8a2f"})
    assert token == "llf_0123456789ab_secret"
    assert file.path.read_text() == GOLDEN
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.keys() == {"0123456789ab": key}
    ring = KeyRing(file)
    assert ring.find(token) == key
    for wrong in ("llf_0123456789ab_secre", "llf_0123456789ac_secret", "llx_0123456789ab_secret", "", "llf_", "é"):
        assert ring.find(wrong) is None


def test_secrets_are_long_and_differ(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    tokens = {file.add("x", ["read"], now=NOW)[1] for _ in range(5)}
    assert len(tokens) == 5
    assert all(len(token.split("_", 2)[2]) == 43 for token in tokens)  # 32 bytes in base64


def test_a_file_of_another_format_or_a_damaged_one(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.path.write_text('{"format": 2, "keys": []}')
    with pytest.raises(FormatError, match="upgrade"):
        file.keys()
    for damaged in ("{", '{"format": 1, "keys": [{"id": "x"}]}', '{"format": 1}'):
        file.path.write_text(damaged)
        with pytest.raises(ConfigError):
            file.keys()
    with pytest.raises(RequestError, match="prompts:NAME"):
        file.add("x", ["everything"], now=NOW)
    file.path.unlink()
    with pytest.raises(UnknownNameError):
        file.remove("0123456789ab")


@pytest.fixture(scope="module")
def tokens() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, redis_url: str, tokens: dict[str, str]) -> Iterator[Running]:
    """A service with keys."""
    root = make_world(tmp_path_factory.mktemp("guarded"), redis_url, name="guarded")
    file = KeyFile(root / ".llmfeatures" / "keys.json")
    for name, scopes, entity in (
        ("all", ["prompts:*", "read", "metrics", "push:*"], None),
        ("home", ["prompts:home"], None),
        ("read", ["read"], None),
        ("push", ["push:taste"], None),
        ("bound", ["prompts:*", "read", "push:*"], {"user_id": "8a2f"}),
        ("seat", ["prompts:*", "read"], {"user_id": "8a2f", "tenant_id": "1", "number": None}),
        ("gone", ["read"], None),
    ):
        tokens[name] = file.add(name, scopes, now=NOW, entity=entity)[1]
    with served(root) as found:
        yield found


@pytest.fixture
def ask(guarded: Running, tokens: dict[str, str]) -> Any:
    """A request with a key, by its name."""

    def asked(key: str | None, path: str, body: Any = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {tokens.get(key, key)}"}
        if body is None:
            return guarded.client.get(path, headers=headers)
        return guarded.client.post(path, json=body, headers=headers)

    return asked


HOME, STRICT, ANSWER = "/v1/prompts/home/context", "/v1/prompts/strict/context", "/v1/prompts/support/answer/context"
FEATURES = {"features": ["genre"], "rows": [{"user_id": "8a2f"}]}
ROWS = [{"user_id": "8a2f", "event_timestamp": "2026-05-07T22:00:00Z", "genre": "noir"}]


def test_without_a_known_key_nothing_is_told(ask: Any) -> None:
    for key in (None, "llf_0123456789ab_wrong", "nonsense"):
        for path, body in ((HOME, {"user_id": "8a2f"}), ("/v1/features", FEATURES), ("/v1/registry", None),
                           ("/metrics", None), ("/openapi.json", None), ("/v1/push/taste", {"rows": ROWS}),
                           ("/v1/prompts/nope/context", {})):  # fmt: skip
            answer = ask(key, path, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(None, "/health/live").status_code == 200
    assert ask(None, "/health/ready").json()["status"] == "ready"


@pytest.mark.parametrize("around", ["{}", "{}\n", " \t{}\r\n"])
async def test_a_client_takes_a_key_with_the_space_around_it(
    guarded: Running, tokens: dict[str, str], around: str
) -> None:
    key = around.format(tokens["read"])
    with Client(guarded.url, api_key=key) as client:
        assert client.get_online_features(["genre"], []) == []
    async with AsyncClient(guarded.url, api_key=key) as asynchronous:
        assert await asynchronous.get_online_features(["genre"], []) == []


def test_scopes(ask: Any) -> None:
    asked = {
        HOME: {"user_id": "8a2f"}, STRICT: {"user_id": "8a2f"}, "/v1/features": FEATURES, "/v1/registry": None,
        "/metrics": None, "/openapi.json": None,
    }  # fmt: skip
    allowed = {
        "all": set(asked),
        "home": {HOME, "/openapi.json"},
        "read": {"/v1/features", "/v1/registry", "/openapi.json"},
        "push": {"/openapi.json"},
    }
    for key, paths in allowed.items():
        for path, body in asked.items():
            assert ask(key, path, body).status_code == (200 if path in paths else 403), (key, path)
    for key in ("home", "read"):
        answer = ask(key, "/v1/push/taste", {"rows": ROWS})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("other", ["b13c", None, 8, "8a2f ", ["8a2f"]])
def test_a_key_that_is_bound_to_an_entity_is_refused_for_any_other(ask: Any, other: Any) -> None:
    for path, body in (
        (HOME, {"user_id": other}),
        ("/v1/prompts/home/contexts", {"rows": [{"user_id": "8a2f"}, {"user_id": other}]}),
        ("/v1/features", {"features": ["genre"], "rows": [{"user_id": "8a2f"}, {"user_id": other}]}),
        ("/v1/push/taste", {"rows": [*ROWS, {**ROWS[0], "user_id": other}]}),
        (f"{HOME}?as_of=2026-05-07T22:00:00Z", {"user_id": other}),
    ):
        answer = ask("bound", path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path
    answer = {"asker_user_id": "8a2f", "owner_user_id": "8a2f", "place_tenant_id": 1, "place_number": 2, "question": ""}
    assert ask("seat", ANSWER, answer).status_code == 200
    assert ask("seat", ANSWER, {**answer, "owner_user_id": other}).status_code == 403


def test_a_bound_key_cannot_take_the_push_id_of_another(ask: Any) -> None:
    body = {"rows": ROWS, "push_id": "nightly/000001"}
    mine = ask("bound", "/v1/push/taste", body).json()
    assert (mine["push_id"], mine["repeated"]) == ("nightly/000001", False)
    theirs = ask("push", "/v1/push/taste", body).json()
    assert (theirs["push_id"], theirs["repeated"]) == ("nightly/000001", False)
    assert ask("bound", "/v1/push/taste", body).json()["repeated"]
    assert ask("all", "/v1/push/taste", body).json()["repeated"]


def test_a_bound_key_is_refused_where_the_join_key_is_left_out_or_the_entity_is_another(ask: Any) -> None:
    assert ask("bound", HOME, {"user_id": "8a2f"}).status_code == 200
    assert ask("bound", HOME, {}).status_code == 403
    assert ask("bound", "/v1/features", {"features": ["genre"], "rows": [{}]}).status_code == 403
    seats = {"features": ["status"], "rows": [{"tenant_id": 1, "number": 2}]}
    assert ask("bound", "/v1/features", seats).status_code == 403
    assert ask("seat", "/v1/features", seats).status_code == 200
    assert ask("seat", "/v1/features", {**seats, "rows": [{"tenant_id": 2, "number": 2}]}).status_code == 403
    assert ask("seat", "/v1/features", {**seats, "rows": [{"tenant_id": True, "number": 2}]}).status_code == 403


def test_a_key_that_is_taken_back_works_no_longer_without_a_restart(
    guarded: Running, tokens: dict[str, str], ask: Any
) -> None:
    assert ask("gone", "/v1/registry").status_code == 200
    root = guarded.log.parent
    command = [sys.executable, "-m", "llmfeatures", "serve", "keys", "remove", tokens["gone"].split("_")[1]]
    subprocess.run([*command, "--project", str(root)], check=True, capture_output=True)
    deadline = time.monotonic() + 20
    while ask("gone", "/v1/registry").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ask("all", "/v1/registry").status_code == 200


def test_no_key_is_in_the_log_and_its_id_is(guarded: Running, tokens: dict[str, str], ask: Any) -> None:
    ask("all", "/v1/registry")
    assert guarded.lines()[-1]["key"] == tokens["all"].split("_")[1]
    text = guarded.log.read_text()
    assert not [name for name, token in tokens.items() if token.split("_", 2)[2] in text]


def test_keys_stay_needed_when_their_file_is_gone_or_damaged(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    _, token = file.add("x", ["read"], now=NOW)
    ring = KeyRing(file)
    for spoil in (file.path.unlink, lambda: file.path.write_text("{")):
        spoil()
        deadline = time.monotonic() + 20
        while ring.needed and ring.find(token) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ring.needed
        assert ring.find(token) is None
    fresh = KeyFile(tmp_path / "other.json")
    open_ring = KeyRing(fresh)
    assert not open_ring.needed
    fresh.add("x", ["read"], now=NOW)
    deadline = time.monotonic() + 20
    while not open_ring.needed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_ring.needed


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """``llmfeatures serve`` of a project until it ends by itself: its exit code, and what it printed."""
    root = make_world(tmp_path / "world", materialize=False)

    def serve_cli(*arguments: str) -> tuple[int, str, str]:
        code = run(["serve", "--project", str(root), *arguments] if "keys" not in arguments else
                   ["serve", *arguments, "--project", str(root)])  # fmt: skip
        return code, *capsys.readouterr()

    return serve_cli


def test_a_public_address_needs_a_key(cli: Any) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        code, _, err = cli("--host", host)
        assert code == 2
        assert "there is no API key" in err
        assert "serve keys new" in err


async def status(project: Project, token: str | None = None) -> int:
    """What the service of a project answers with, started as ``serve`` starts it."""
    app = create_app(project, keys_needed=check_address(project), log=RequestLog("off"))
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return (await client.get("/v1/registry", headers=headers)).status_code


async def test_where_keys_are_needed_no_restart_opens_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    root = tmp_path / "world"
    plain = Project.load(root)
    assert await status(plain) == 200
    monkeypatch.setenv("LLMFEATURES_SERVE_KEYS_NEEDED", "true")
    project = Project.load(root)
    code, _, err = cli()
    assert code == 2
    assert "keys_needed is true, and there is no API key in" in err
    assert str(project.config.keys) in err
    _, token = KeyFile(project.config.keys).add("x", ["read"], now=NOW)
    assert (await status(project), await status(project, token)) == (401, 200)
    assert check_address(plain)  # a worker that starts when the file is gone still asks
    project.config.keys.unlink()
    assert cli()[0] == 2
    with pytest.raises(ConfigError, match="keys_needed"):
        await status(project)
    assert await status(plain) == 200
    monkeypatch.delenv("LLMFEATURES_SERVE_KEYS_NEEDED")
    app = create_app(project, log=RequestLog("off"))  # in an application, which cannot refuse to start
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/v1/registry")).status_code == 401


def test_processes_that_make_and_remove_keys_at_once_lose_none(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state" / "keys.json")
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from llmfeatures.service.keys import KeyFile\n"
        "file = KeyFile(Path(sys.argv[1]))\nsys.stdin.read()\n"
        "for number in range(8):\n"
        "    kept = file.add(f'{sys.argv[2]}-{number}', ['read'], now=datetime.now(UTC))[0]\n"
        "    gone = file.add('gone', ['read'], now=datetime.now(UTC))[0]\n"
        "    file.remove(gone.id)\n"
    )
    command = [sys.executable, "-c", script, str(file.path)]
    running = [subprocess.Popen([*command, str(one)], stdin=subprocess.PIPE) for one in range(4)]
    for one in running:
        assert one.stdin is not None
        one.stdin.close()
    assert [one.wait(60) for one in running] == [0] * 4
    names = sorted(key.name for key in file.keys().values())
    assert names == sorted(f"{one}-{number}" for one in range(4) for number in range(8))
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()} == {0o600}


def test_the_command_line_makes_lists_and_removes_keys(cli: Any, tmp_path: Path) -> None:
    root = tmp_path / "world"
    code, out, err = cli("keys", "new", "web", "--scope", "prompts:home", "--entity", "user_id=8a2f")
    assert code == 0
    token = out.strip()
    assert token.startswith("llf_")
    assert token not in (root / ".llmfeatures" / "keys.json").read_text()
    assert token.split("_", 2)[2] not in err
    listed = json.loads(cli("keys", "list", "--json")[1])["keys"]
    assert [(one["name"], one["scopes"], one["bound_to"]) for one in listed] == [
        ("web", ["prompts:home"], ["user_id=8a2f"])
    ]
    for wrong in (
        ["--scope", "prompts:homer"],
        ["--scope", "push:x"],
        ["--scope", "all"],
        [],
        ["--scope", "read", "--entity", "user=1"],
        ["--scope", "read", "--entity", "tenant_id=x"],
        ["--scope", "read", "--entity", "user_id="],
    ):
        code, out, err = cli("keys", "new", "web", *wrong)
        assert (code, out) == (2, ""), wrong
        assert err.startswith("error: ")
    assert cli("keys", "remove", listed[0]["id"])[0] == 0
    assert json.loads(cli("keys", "list", "--json")[1]) == {"keys": []}
    assert cli("keys", "remove", listed[0]["id"])[0] == 2


def test_the_list_shows_what_a_key_is_bound_to(cli: Any) -> None:
    for words in (
        ["user_id=mallory"],
        ["user_id"],
        ["user_id=*"],
        ["user_id=a, tenant_id=1"],
        ["user_id=a\x1b[31mé"],
        ["tenant_id=1", "number"],
        [],
    ):
        options = [option for word in words for option in ("--entity", word)]
        assert cli("keys", "new", "web", "--scope", "read", *options)[0] == 0
    listed = json.loads(cli("keys", "list", "--json")[1])["keys"]
    assert [one["bound_to"] for one in listed] == [
        ["user_id=mallory"],
        ["user_id=*"],
        ['user_id="*"'],
        ['user_id="a, tenant_id=1"'],
        ['user_id="a\\u001b[31m\\u00e9"'],
        ["tenant_id=1", "number=*"],
        None,
    ]
    text = cli("keys", "list")[1]
    for shown in ("user_id=mallory", "user_id=*", 'user_id="*"', "tenant_id=1, number=*", " -  "):
        assert shown in text
