"""Configuration: found upwards, overridden by the environment, and named when it is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmfeatures.config import find_config, open_online
from llmfeatures.errors import ConfigError

WHOLE = """
[project]
name = "streaming"
registry = "features.py"
now = "2026-05-07T23:00:00Z"
[online]
url = "redis://:secret@127.0.0.1:6379/0"
timeout = "1s"
[offline]
memory_limit = "2GB"
"""


def test_the_nearest_configuration_upwards_counts(tmp_path: Path) -> None:
    (tmp_path / "llmfeatures.toml").write_text(WHOLE)
    (tmp_path / "a" / "b").mkdir(parents=True)
    config = find_config(tmp_path / "a" / "b", {})
    assert config.root == tmp_path.resolve()
    assert config.online.timeout == timedelta(seconds=1)
    assert config.clock()() == datetime(2026, 5, 7, 23, tzinfo=UTC)
    (tmp_path / "a" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert find_config(tmp_path / "a" / "b", {}).root == tmp_path.resolve()
    (tmp_path / "a" / "pyproject.toml").write_text('[tool.llmfeatures.project]\nname = "x"\nregistry = "r.yaml"\n')
    assert find_config(tmp_path / "a" / "b", {}).project.name == "x"


def test_a_pyproject_whose_tables_are_none(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\nllmfeatures = 3\n")
    with pytest.raises(ConfigError, match="is a table of sections"):
        find_config(tmp_path, {})
    (tmp_path / "pyproject.toml").write_text("tool = 3\n")
    with pytest.raises(ConfigError, match=r"no llmfeatures\.toml"):
        find_config(tmp_path, {})


def test_the_environment_overrides(tmp_path: Path) -> None:
    (tmp_path / "llmfeatures.toml").write_text(WHOLE)
    config = find_config(
        tmp_path,
        {"LLMFEATURES_ONLINE_URL": "sqlite", "LLMFEATURES_NOW": "2027-01-01", "LLMFEATURES_PROJECT_STATE": "s"},
    )
    assert config.online.url == "sqlite"
    assert config.project.now == datetime(2027, 1, 1, tzinfo=UTC)
    assert config.state == tmp_path.resolve() / "s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project", "llmfeatures.toml cannot be read"),
        ("[projet]\n", "no section 'projet'; did you mean 'project'"),
        ("[project]\nname='x'\n", r"\[project\] registry"),
        ("[project]\nname='x'\nregistry='r'\nregistri='r'\n", "no option 'registri'; did you mean 'registry'"),
        ("[project]\nname='x'\nregistry='r'\nnow='soon'\n", "now: not an ISO 8601"),
        ("[project]\nname='x'\nregistry='r'\n[online]\ntimeout='soon'\n", "timeout: 'soon' is no duration"),
        ("[project]\nname='x'\nregistry='r'\n[online]\naccess='all'\n", "access"),
        ("online = 3\n[project]\nname='x'\nregistry='r'\n", "online is a section"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "llmfeatures.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_config(tmp_path, {})


def test_no_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llmfeatures init"):
        find_config(tmp_path, {})


def test_an_unknown_store_is_refused_without_showing_the_url(tmp_path: Path) -> None:
    (tmp_path / "llmfeatures.toml").write_text(WHOLE.replace("redis://", "mysql://"))
    with pytest.raises(ConfigError, match="redis://HOST") as caught:
        open_online(find_config(tmp_path, {}))
    assert "secret" not in str(caught.value)
