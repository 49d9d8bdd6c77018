"""The Redis ACL lines of docs/deployment.md suffice, and the reader's is no writer's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmfeatures import Project, online
from llmfeatures.errors import StoreError
from tests.servers import Server, start_redis, start_valkey
from tests.service.world import make_world

SCRIPT = "newest_wins.lua"
DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with start_redis() if request.param == "redis" else start_valkey() as found:
        yield found


def lines() -> dict[str, str]:
    """The users of the page by name, with the rules of each."""
    text = DEPLOYMENT.read_text()
    return {match[1]: match[2] for match in re.finditer(r"^user (\S+) (.*)$", text, re.MULTILINE)}


def commands(user: str) -> set[str]:
    """What a user of the page may do."""
    return {word[1:] for word in lines()[user].split() if word.startswith("+")}


def test_the_writers_line_has_every_command_of_the_script_and_the_readers_none_that_writes() -> None:
    called = {
        name.lower() for name in re.findall(r"call\('([A-Z]+)'", resources.files(online).joinpath(SCRIPT).read_text())
    }
    assert called >= {"hset", "hdel", "del", "expireat", "persist", "time", "hkeys", "hsetnx", "dbsize"}
    assert called | {"eval", "evalsha", "scan", "echo", "info", "memory|usage", "select"} == commands(
        "llmfeatures-write"
    )
    writing = {"hset", "hsetnx", "hdel", "del", "expireat", "persist", "eval", "evalsha", "time", "hkeys"}
    assert commands("llmfeatures-read") == commands("llmfeatures-write") - writing


def test_the_users_of_the_page_can_do_their_work_and_no_more(server: Server, tmp_path: Path) -> None:
    admin = server.client()
    for name, rules in lines().items():
        # the page's namespace is the sample's, its passwords are to be replaced
        admin.execute_command("ACL", "SETUSER", name, *rules.replace("~streaming:*", "~world:*").split())
    assert set(lines()) == {"llmfeatures-write", "llmfeatures-read"}
    root = make_world(tmp_path / "world", materialize=False)
    config = root / "llmfeatures.toml"
    plain = config.read_text()

    def project(user: str) -> Project:
        password = re.search(r">(\S+)", lines()[user])
        assert password
        url = f"redis://{user}:{password[1]}@127.0.0.1:{server.port}/0"
        config.write_text(plain.replace('url = "sqlite"', f'url = "{url}"'))
        return Project.load(root)

    writer = project("llmfeatures-write")
    writer.materialize()
    rows = pq.read_table(root / "data" / "profile.parquet")
    pq.write_table(rows.slice(0, 1), root / "data" / "profile.parquet")
    writer.materialize(full=True)  # which removes a row
    assert writer.push("taste", [{"user_id": "8a2f", "genre": "noir"}]).online
    assert writer.builder().build_context("home", user_id="8a2f").values["genre"] == "noir"
    assert writer.builder().build_context("home", user_id="b13c").features["watched"].status == "missing"
    status = writer.status()
    assert status.store.reachable
    assert status.store.problem is None
    writer.close()
    reader = project("llmfeatures-read")
    assert reader.builder().build_context("home", user_id="8a2f").values["genre"] == "noir"
    assert reader.status().store.reachable
    with pytest.raises(StoreError):
        reader.materialize(full=True)
    reader.close()
    admin.close()
