"""A diff counts what two histories of the two versions differ in; against git, files and releases."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.cli.app import run
from llmfeatures.diff.conditions import Condition
from llmfeatures.diff.result import PromptDiff
from llmfeatures.errors import PromptError, RequestError, SpineError, UnknownNameError
from llmfeatures.project import Project
from tests.diff.conftest import OLD, Made, commit, git
from tests.projects import MOMENT, at

NEW = (
    OLD.replace("Suggest 3 titles in a short", "Suggest three titles in a short")
    .replace("> 20", "> 30")
    .replace("{{ watched }}", "{{ '{:,}'.format(watched) }}")
)
NEEDS = """---
features:
  segment: {on_missing: error}
  watched: {default: 0}
inputs:
  question: {type: str}
  mood: {type: str}
---
{{ segment }} {{ watched }} {{ mood }} {{ question }}
"""


def spine(rows: int = 300) -> pa.Table:
    moments = [at(day=2) + timedelta(minutes=17 * number) for number in range(rows)]
    return pa.table(
        {
            "user_id": [f"u{number % 44}" for number in range(rows)],
            "event_timestamp": pa.array(moments, MOMENT),
            "question": [f"What is new, number {number % 7}?" for number in range(rows)],
        }
    )


def ids_of(project: Project, prompt: str, rows: object) -> list[tuple[str | None, str | None]]:
    table = project.history(prompt, rows).read_all()
    return list(zip(table.column("prompt_id").to_pylist(), table.column("error").to_pylist(), strict=True))


def test_the_counts_are_those_of_two_histories(made: Made, tmp_path: Path) -> None:
    project = made(
        {"home": OLD, "mail": NEEDS}, {"home": NEW, "mail": NEEDS.replace("{on_missing: error}", "{default: x}")}
    )
    before = tmp_path / "before"
    shutil.copytree(project.config.root, before)
    git(before, "checkout", "-q", "--", "prompts")
    rows = {"home": spine(), "mail": spine().append_column("mood", pa.array(["calm"] * 300))}
    for name, given in rows.items():
        found = project.diff(name, "git:HEAD", given)
        pairs = list(zip(ids_of(Project.load(before), name, given), ids_of(project, name, given), strict=True))
        counts = found.counts
        assert counts.rows == 300
        assert counts.edited == sum(old[0] != new[0] for old, new in pairs if old[0] and new[0])
        assert counts.errors_now == sum(bool(old[0] and new[1]) for old, new in pairs)
        assert counts.fixed_now == sum(bool(old[1] and new[0]) for old, new in pairs)
        assert counts.errors_both == sum(bool(old[1] and new[1]) for old, new in pairs)
        assert sum(one.prompts for one in found.groups) == counts.changed > 0
        assert [one.prompts for one in found.groups] == sorted((one.prompts for one in found.groups), reverse=True)
        assert sum(one.tokens for one in found.groups) == found.tokens.change
    assert counts.fixed_now > 0


def test_groups_say_what_changed(made: Made) -> None:
    project = made({"home": OLD}, {"home": NEW})
    found = project.diff("home", spine=spine())
    named = {tuple((one.removed, one.added) for one in group.edits): group for group in found.groups}  # pyright: ignore
    words = ("3", "three")
    assert (words,) in named
    assert ((" (heavy viewer)", ""), words) in named
    assert (("{{ watched }}", "…"), words) in named or (
        ("{{ watched }}", "{{ '{:,}'.format(watched) }}"),
        words,
    ) in named
    for group in found.groups:
        assert group.pair is not None
        assert group.pair.old != group.pair.new
        assert group.kind == "words"


def test_kinds_of_a_branch_and_of_a_value(made: Made) -> None:
    form = "'{:,}'.format(watched)"
    project = made(
        {"a": OLD, "b": OLD, "c": OLD, "d": OLD},
        {
            "a": OLD.replace("> 20", "> 1"),
            "b": OLD.replace("{{ watched }}", f"{{{{ {form} }}}}"),
            "c": OLD.replace("service.\n\n", "service.\n"),
            "d": OLD.replace(
                '{% message "user" %}', '{% message "assistant" %}\nOk.\n{% endmessage %}\n{% message "user" %}'
            ),
        },
    )
    kinds = {name: {one.kind for one in project.diff(name, spine=spine()).groups} for name in "abcd"}
    assert kinds == {"a": {"branch"}, "b": {"values"}, "c": {"white space"}, "d": {"messages"}}


def test_nothing_changed(made: Made) -> None:
    found = made({"home": OLD}, {}).diff("home", spine=spine())
    assert (found.counts.rows, found.counts.changed, found.groups) == (300, 0, ())
    assert found.tokens.change == 0
    assert found.tokens.old > 0
    assert found.tokens.mean is None


def test_a_drawn_spine_says_what_it_is_and_stands_in_for_inputs(made: Made) -> None:
    project = made({"mail": NEEDS}, {"mail": NEEDS.replace("{{ mood }}", "so {{ mood }}")})
    found = project.diff("mail")
    assert found.spine == "40 users drawn from history, a moment every 1d over 30d, seed 0"
    assert found == project.diff("mail", "git:HEAD")
    assert any("mood stands in as mood" in one for one in found.notes)
    other = project.diff("mail", users=5, since="2d", inputs={"mood": "calm", "question": "Why?"})
    assert other.spine == "5 users drawn from history, a moment every 1d over 2d, seed 0"
    assert not any("stands in" in one for one in other.notes)
    assert all("so calm Why?" in one.pair.new[0].content for one in other.groups if one.pair and one.pair.new)


def test_the_new_version_needs_more(made: Made) -> None:
    old = "---\nfeatures: {watched: {default: 0}}\n---\n{{ watched }} titles\n"
    project = made({"home": old}, {"home": NEEDS})
    rows = spine()
    with pytest.raises(SpineError, match="no column 'mood'"):
        project.diff("home", spine=rows)
    found = project.diff("home", spine=rows, inputs={"mood": "calm"})
    missing = Counter(
        one[1] is not None for one in ids_of(project, "home", rows.append_column("mood", pa.array(["x"] * 300)))
    )
    assert found.counts.errors_now == missing[True] > 0
    assert found.counts.edited == missing[False]
    errors = [one for one in found.groups if one.kind == "error now"]
    assert sum(one.prompts for one in errors) == missing[True]
    assert all(one.reason and one.pair and one.pair.old and not one.pair.new for one in errors)


def test_an_input_with_another_dtype(made: Made) -> None:
    project = made({"home": OLD}, {"home": OLD.replace("{type: str}", "{type: int}")})
    with pytest.raises(RequestError, match="question is str in the old version and int in the new one"):
        project.diff("home", spine=spine())


def test_money_at_the_spines_traffic(made: Made) -> None:
    project = made({"home": OLD}, {"home": NEW})
    rows = spine()
    found = project.diff("home", spine=rows, price="2.50")
    assert found.cost is not None
    days = (299 * 17) / (24 * 60)
    assert float(found.cost.spine) == pytest.approx(found.tokens.change * 2.5e-6)
    assert found.cost.month is not None
    assert float(found.cost.month) == pytest.approx(found.tokens.change * 2.5e-6 * 30 / days)
    one = project.diff("home", spine=rows.slice(0, 1), price=2.5)
    assert one.cost is not None
    assert one.cost.day is None
    with pytest.raises(RequestError, match="price is what a million input tokens cost"):
        project.diff("home", spine=rows, price="-1")


def test_partials_of_the_revision(made: Made) -> None:
    text = '{% include "_shared/tone.j2" %}\nHello {{ watched }}\n'
    header = "---\nfeatures: {watched: {default: 0}}\n---\n"
    project = made({"sub/home": header + text}, {}, {"prompts/_shared/tone.j2": "Be kind."})
    root = project.config.root
    (root / "prompts" / "_shared" / "tone.j2").write_text("Be brief.")
    first = git(root, "rev-parse", "HEAD").strip()
    commit(root)
    (root / "prompts" / "_shared" / "tone.j2").write_text("Be brief and kind.")
    rows = spine(20)
    last = Project.load(root).diff("sub/home", spine=rows)
    assert {(one.removed, one.added) for group in last.groups for one in group.edits} == {("", " and kind")}  # pyright: ignore
    then = Project.load(root).diff("sub/home", f"git:{first[:10]}", spine=rows)
    assert {(one.removed, one.added) for group in then.groups for one in group.edits} == {("", "brief and ")}  # pyright: ignore
    assert git(root, "status", "--porcelain") == " M prompts/_shared/tone.j2\n"


def test_a_prompts_folder_that_is_linked_and_one_in_a_subfolder_of_the_repository(made: Made) -> None:
    project = made({"home": OLD}, {"home": NEW})
    root = project.config.root
    outer = root.parent
    shutil.rmtree(root / ".git")
    (root / "prompts" / "home.prompt.j2").write_text(OLD)
    (root / "prompts" / "again.prompt.j2").symlink_to("home.prompt.j2")
    git(outer, "init", "-q")
    commit(outer)
    (root / "prompts" / "home.prompt.j2").write_text(NEW)
    for name in ("home", "again"):
        assert Project.load(root).diff(name, spine=spine(30)).counts.edited == 30


def test_against_a_file(made: Made, tmp_path: Path) -> None:
    project = made({"home": NEW}, {}, {"prompts/_shared/tone.j2": "Be kind."})
    other = tmp_path / "elsewhere" / "old.prompt.j2"
    other.parent.mkdir()
    other.write_text(OLD)
    assert project.diff("home", str(other), spine(30)).counts.edited == 30
    other.write_text(OLD.replace("You", '{% include "_shared/tone.j2" %} You'))
    shown = project.diff("home", str(other), spine(30)).groups[0].pair
    assert shown is not None
    assert "Be kind. You" in shown.old[0].content
    (other.parent / "_shared").mkdir()
    (other.parent / "_shared" / "tone.j2").write_text("Be own.")
    shown = project.diff("home", str(other), spine(30)).groups[0].pair
    assert shown is not None
    assert "Be own. You" in shown.old[0].content


def test_against_a_version_that_a_release_keeps(made: Made) -> None:
    project = made({"home": OLD}, {})
    project.apply(message="first")
    version = project.prompts.plan("home").version
    (project.config.root / "prompts" / "home.prompt.j2").write_text(NEW)
    later = Project.load(project.config.root)
    found = later.diff("home", version[:8], spine(30))
    assert (found.old.version, found.counts.edited) == (version, 30)
    with pytest.raises(RequestError, match="unknown version of prompt 'home'"):
        later.diff("home", "0123456789", spine(30))


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("git:nope", "unknown revision 'nope'"),
        ("git:", "git: needs a revision"),
        ("git:--help", "unknown revision '--help'"),
        ("somewhere.j2", "is no file and no version; give git:REV"),
        ("abc", "is no file and no version"),
    ],
)
def test_what_is_no_version(made: Made, against: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        made({"home": OLD}, {}).diff("home", against, spine(3))


def test_what_git_cannot_give(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = made({"home": OLD}, {"later": OLD})
    with pytest.raises(RequestError, match="prompt 'later' was not there at git:HEAD"):
        project.diff("later", spine=spine(3))
    with pytest.raises(UnknownNameError):
        project.diff("nobody", spine=spine(3))
    monkeypatch.setenv("GIT_DIR", ".git")  # as in a hook
    assert project.diff("home", spine=spine(3)).counts.changed == 0
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="git is not installed"):
        project.diff("home", spine=spine(3))
    monkeypatch.undo()
    shutil.rmtree(project.config.root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(RequestError, match="is in no git repository"):
        project.diff("home", spine=spine(3))
    git(project.config.root, "init", "-q")
    with pytest.raises(RequestError, match="the repository has no commit yet"):
        project.diff("home", spine=spine(3))


def test_an_old_prompt_that_the_present_registry_does_not_know(made: Made) -> None:
    project = made({"home": OLD.replace("{{ segment }}", "{{ segment }} {{ other }}")}, {"home": OLD})
    with pytest.raises(PromptError, match="check --against git:HEAD compares both"):
        project.diff("home", spine=spine(3))


def test_options_that_do_not_go_together(made: Made) -> None:
    project = made({"home": OLD}, {"home": NEW})
    with pytest.raises(RequestError, match="users draws a spine, and one is given"):
        project.diff("home", spine=spine(3), users=3)
    with pytest.raises(RequestError, match="has an input 'quest'; did you mean 'question'"):
        project.diff("home", inputs={"quest": "x"})
    with pytest.raises(RequestError, match="question is a column of the spine and also given as an input"):
        project.diff("home", spine=spine(3), inputs={"question": "x"})


def test_a_budget_counts_with_its_own_tokenizer(made: Made) -> None:
    budget = "budget: {max_tokens: 500, tokenizer: cl100k_base}\n"
    project = made(
        {"home": OLD.replace("---\nfeatures", f"---\n{budget}features")},
        {"home": NEW.replace("---\nfeatures", f"---\n{budget}features")},
    )
    found = project.diff("home", spine=spine(30))
    assert (found.tokens.tokenizer, found.tokens.estimated, found.counts.edited) == ("cl100k_base", False, 30)


# -- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "holds"),
    [
        ("changed > 99%", True),
        ("changed>=100%", True),
        ("changed > 100%", False),
        ("changed > 20", True),
        ("changed < 20", False),
        ("errors > 0", False),
        ("fixed >= 0", True),
        ("tokens > +5%", False),
        ("tokens <= 5%", True),
        ("tokens > 100000", False),
    ],
)
def test_conditions(diffed: PromptDiff, written: str, holds: bool) -> None:
    condition = Condition.of(written)
    assert condition.holds(diffed) is holds
    assert condition.said(diffed).startswith(f"{condition.name} {condition.sign}")


@pytest.fixture
def diffed(made: Made) -> PromptDiff:
    return made({"home": OLD}, {"home": NEW}).diff("home", spine=spine(30))


@pytest.mark.parametrize(
    "written", ["", "changed", "changed > ten", "changed == 3", "changed > 10 %%", "errors > 1e3", "other > 1"]
)
def test_what_is_no_condition(written: str) -> None:
    with pytest.raises(RequestError, match="--fail-if"):
        Condition.of(written)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = made({"home": OLD}, {"home": NEW})
    rows = tmp_path / "rows.parquet"
    pq.write_table(spine(), rows)
    base = ["diff", "home", "--project", str(project.config.root), "--spine", str(rows)]
    page, comment = tmp_path / "diff.html", tmp_path / "comment.md"
    assert run([*base, "--html", str(page), "--markdown", str(comment), "--fail-if", "errors > 0"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("== home: 300 of 300 prompts change (100%)\nbefore   git:HEAD (")
    assert '   "3" -> "three"\n' in out.out
    assert "[-3-]" in out.out
    assert "{+three+}" in out.out
    assert page.read_text().startswith("<!doctype html>")
    assert comment.read_text().startswith("### Prompt <code>home</code>: 300 of 300 prompts change (100%)")
    assert run([*base, "--json", "--fail-if", "changed > 10%", "--price-per-million", "2.5"]) == 1
    out = capsys.readouterr()
    found: dict[str, Any] = json.loads(out.out)
    assert found == project.diff("home", spine=rows, price="2.5").as_json()
    assert (found["format"], found["changed_share"]) == (1, 1.0)
    assert "error: changed > 10% (it is 100%)" in out.err
    assert run([*base, "--markdown", "-", "--pairs", "1"]) == 0
    assert capsys.readouterr().out.count("```diff") == 1
    assert run([*base, "--json", "--markdown", "-"]) == 2
    assert run([*base, "--fail-if", "nothing"]) == 2
    assert run([*base, "--markdown", str(comment), "--pairs", "0"]) == 0
    (tmp_path / "README.md").write_text("# Mine")
    assert run([*base, "--markdown", str(tmp_path / "README.md")]) == 2
    assert run([*base, "--html", str(rows)]) == 2
    assert "the spine itself" in capsys.readouterr().err


def test_inputs_are_read_by_each_versions_own_dtype(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    project = made(
        {"home": OLD},
        {"home": OLD.replace("{type: str}", "{type: int}").replace("{{ question }}", "{{ question + 1 }}")},
    )
    root = str(project.config.root)
    assert run(["diff", "home", "--project", root, "--input", "question=41", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    contents = {
        (side["messages"][1]["content"]) for one in found["groups"] for side in (one["pair"]["old"], one["pair"]["new"])
    }
    assert contents == {"41", "42"}
    assert run(["diff", "home", "--project", root, "--input", "question=x"]) == 2
    assert "question is of type int" in capsys.readouterr().err
