"""The pages of the rules: every bad example is found, every good one is not, and docs/rules.md is what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.checker.findings import Finding
from llmfeatures.checker.options import CheckOptions
from llmfeatures.checker.pages import FEATURES, Example, document, examples, page
from llmfeatures.checker.rules import RULES
from llmfeatures.checking import ProjectCheck, registry_finding
from llmfeatures.config import find_config, open_offline
from llmfeatures.errors import DefinitionError
from llmfeatures.registry import load_registry

DOCS = Path(__file__).parents[2] / "docs"
CASES = [
    pytest.param(code, one, id=f"{code}-{one.kind}-{number}")
    for code in RULES
    for number, one in enumerate(examples(code))
]


def found_in(root: Path, example: Example, code: str) -> list[Finding]:
    """What is found in a project with the files of an example."""
    files = {"features.py": FEATURES, "llmfeatures.toml": CONFIG, **example.files}
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    (root / "prompts").mkdir(exist_ok=True)
    looks = code in ("LF006", "LF007")
    if looks:
        write_profile(root / "data")
    config = find_config(root)
    try:
        registry = load_registry(config.project.registry, config.root)
    except DefinitionError as error:
        return [registry_finding(error, config.project.registry)]
    checks = ProjectCheck(config=config, registry=registry, options=CheckOptions(), cached=False)
    return checks.findings(offline=(lambda: open_offline(config)) if looks else None)


def write_profile(folder: Path) -> None:
    folder.mkdir()
    moment = pa.array([datetime(2026, 5, 7, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    columns = {"user_id": ["a"], "last_genre": ["drama"], "event_timestamp": moment, "created_timestamp": moment}
    pq.write_table(pa.table(columns), folder / "profile.parquet")


CONFIG = """\
[project]
name = "pages"
registry = "features.py"
"""


@pytest.mark.parametrize(("code", "example"), CASES)
def test_examples_are_what_they_say(code: str, example: Example, tmp_path: Path) -> None:
    found = found_in(tmp_path, example, code)
    codes = {one.code for one in found if one.severity != "info" or one.code == code}
    expected = {code} if example.kind == "bad" else set[str]()
    assert codes == expected, [(one.code, one.message, one.line) for one in found]


def test_every_rule_has_a_bad_and_a_good_example() -> None:
    for code in RULES:
        assert {one.kind for one in examples(code)} == {"bad", "good"}, code
        text = page(code)
        assert text.startswith(f"# {code} {RULES[code].name}\n")
        assert " bad" not in {line for line in text.splitlines() if line.startswith("```")}


def test_the_document_is_what_the_pages_say() -> None:
    assert (DOCS / "rules.md").read_text(encoding="utf-8") == document(), (
        "write docs/rules.md anew: python -c 'from llmfeatures.checker.pages import document; "
        'print(document(), end="")\' > docs/rules.md'
    )
