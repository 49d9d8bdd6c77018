"""The Redis ACL lines of docs/deployment.md suffice, and the reader's is no writer's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures import Project
from llmfeatures.errors import StoreError
from tests.servers import Server, start_redis, start_valkey
from tests.service.world import make_world

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with start_redis() if request.param == "redis" else start_valkey() as found:
        yield found


def lines() -> dict[str, str]:
    """The users of the page by name, with the rules of each."""
    text = DEPLOYMENT.read_text()
    return {match[1]: match[2] for match in re.finditer(r"^user (\S+) (.*)$", text, re.MULTILINE)}


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
    writer.materialize(full=True)
    assert writer.push("taste", [{"user_id": "8a2f", "genre": "noir"}]).online
    assert writer.builder().build_context("home", user_id="8a2f").values["genre"] == "noir"
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
