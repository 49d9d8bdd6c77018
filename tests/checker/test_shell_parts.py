"""The parts of the checker's shell, each alone: ignore comments, fixes, the place of the carets, sessions."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from llmfeatures.checker import output
from llmfeatures.checker.findings import Edit, Finding
from llmfeatures.checker.fixes import fix_file, fixed_text
from llmfeatures.checker.ignore import ignores_in, silence
from llmfeatures.checker.options import CheckOptions
from llmfeatures.checker.parallel import in_two
from llmfeatures.checker.session import CheckSession
from llmfeatures.errors import RenderError, UnknownNameError
from llmfeatures.registry import registry_from_yaml

REGISTRY = registry_from_yaml(
    "entities: [{name: user, join_key: user_id}]\n"
    "views: [{name: v, entity: user, source: v.parquet, features: {n: int, genre: str, kind: 'enum[heavy,casual]'}}]\n"
)
HEADER = "---\nfeatures:\n  n: {default: 0}\n  genre: {on_missing: none}\n  kind: {default: casual}\n---\n"


def prompts(root: Path, **files: str) -> CheckSession:
    """A session over prompts by name; ``_shared_x`` is a partial."""
    folder = root / "prompts"
    (folder / "_shared").mkdir(parents=True)
    for name, text in files.items():
        shared = name.startswith("_shared_")
        path = folder / (f"_shared/{name.removeprefix('_shared_')}.j2" if shared else f"{name}.prompt.j2")
        path.write_text(text, encoding="utf-8")
    return CheckSession(REGISTRY, folder)


def codes(session: CheckSession, *names: str) -> list[tuple[str, int | None]]:
    found = session.findings(names or None)
    return [(one.code, one.line) for one in found if one.code not in ("LF062", "LF060")]


# --- ignore comments


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("{# lf: ignore[LF052] #}\n{{ 3 / n }}\n", []),
        ("{{ 3 / n }} {# lf: ignore[LF052] #}\n", []),
        ("{#- lf: ignore[ LF052 , LF020 ] -#}\n{{ 3 / n }} {{ genre }}\n", []),
        ("{# lf: ignore[LF052] #}\n{# lf: ignore[LF020] #}\n{{ 3 / n }} {{ genre }}\n", []),
        ("{# lf: ignore[LF052] #} {# lf: ignore[LF020] #}\n{{ 3 / n }} {{ genre }}\n", []),
        ("{# lf: ignore[LF052]: a viewer has watched something #}\n{{ 3 / n }}\n", []),
        ("{# lf: ignore[LF052]\n   since n is never 0 #}\n{{ 3 / n }}\n", []),
        ("{{ 3 / n }} {# lf: ignore[LF052]\n   since n is never 0 #}\n", []),
        ("{# lf: ignore-files[LF052] #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore LF052 #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore-file[LF052] #}\nx\n\n{{ 3 / n }}{{ 4 / n }}\n", []),
        ("{# lf: ignore[LF052] #}\nx\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 9)]),
        ("{{ 3 / n }}\n{# lf: ignore[LF052] #}\n", [("LF052", 7), ("LF080", 8)]),
        ("x {# lf: ignore[LF052] #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore[LF020,LF052] #}\n{{ 3 / n }}\n", [("LF080", 7)]),
        ("{# lf: ignore #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore[] #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore[LF999] #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignroe[LF052] #}\n{{ 3 / n }}\n", [("LF080", 7), ("LF052", 8)]),
        ("{# lf: ignore[LF010] #}\n{{ nobody }}\n", [("LF080", 7), ("LF010", 8)]),
        ("{# lf: ignore[LF080] #}\n{# lf: ignore[LF052] #}\n{{ n }}\n", [("LF080", 7), ("LF080", 8)]),
        ("{% raw %}{# lf: ignore[LF052] #}{% endraw %}{{ 3 / n }}\n", [("LF052", 7)]),
        ("{# about lf: ignore[LF052] #}\n{{ 3 / n }}\n", [("LF052", 8)]),
        ("{# lf: ignore[LF052] #}\n{% if %}\n", [("LF001", 8)]),
    ],
)
def test_ignore_comments(tmp_path: Path, body: str, left: list[tuple[str, int]]) -> None:
    assert codes(prompts(tmp_path, p=HEADER + body)) == left


def test_ignore_comments_in_a_header(tmp_path: Path) -> None:
    session = prompts(
        tmp_path,
        beside="---\nfeatures:\n  n: {default: 0} # lf: ignore[LF060]\n---\nx",
        above="---\nfeatures:\n  # lf: ignore[LF060]\n  n: {default: 0}\n---\nx",
        file="---\n# lf: ignore-file[LF060,LF052]\nfeatures: {n: {default: 0}, kind: {default: x}}\n---\n{{ 1 / n }}",
        idle="---\nfeatures:\n  # lf: ignore[LF060]\n  n: {default: 0}\n---\n{{ n }}",
        text='---\ndescription: "a#lf: ignore[LF060]"\nfeatures:\n  n: {default: 0}\n---\n{{ n }}',
    )
    found = [(one.code, one.path, one.line) for one in session.findings() if one.code != "LF062"]
    assert found == [("LF080", "prompts/idle.prompt.j2", 3)]


def test_ignore_comments_in_partials(tmp_path: Path) -> None:
    part = "{# lf: ignore[LF052] #}\n{{ 3 / n }}\n{# lf: ignore[LF020] #}\nx\n"
    session = prompts(tmp_path, p=HEADER + "{% include '_shared/a.j2' %}{{ genre or 1 }}{{ kind }}", _shared_a=part)
    assert codes(session) == [("LF080", 3)]
    # another prompt may need it
    assert codes(session, "p") == []


def test_what_is_not_looked_for_is_not_missed(tmp_path: Path) -> None:
    session = prompts(tmp_path, p=HEADER + "{# lf: ignore[LF052] #}\n{{ n }}{{ kind }}{{ genre or 1 }}\n")
    assert codes(session) == [("LF080", 7)]
    session.options = CheckOptions(ignore=frozenset({"LF052"}))
    assert codes(session) == []


def test_a_comment_of_several_lines_is_removed_whole(tmp_path: Path) -> None:
    session = prompts(tmp_path, p="a\n  {# lf: ignore[LF052]\n   since #}\nb\n")
    (found,) = session.findings(["p"])
    assert (found.line, found.column, found.end_line, found.end_column) == (2, 3, 3, 12)
    session.fix([found])
    assert (tmp_path / "prompts" / "p.prompt.j2").read_text() == "a\nb\n"


PIECES = ["a", " ", "  ", "\n", "{{ 1 }}", "{{- 1 }}", "{{ 1 -}}", "{% if 1 %}x{% endif %}", "{%- if 1 -%}x{% endif %}"]
COMMENTS = [f"{{#{begin} lf: ignore[LF052] {end}#}}" for begin in ("", "-", "+") for end in ("", "-", "+")]


@given(st.lists(st.sampled_from([*PIECES, *COMMENTS, *COMMENTS[:1] * 9]), min_size=1, max_size=9).map("".join))
@settings(max_examples=500)
def test_a_prompt_is_the_same_without_a_comment_that_is_removed(source: str) -> None:
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    for one in silence("p", [], ignores_in(source, 0), judged=lambda _code: True):
        text, _ = fixed_text(source, [one])
        assert jinja.from_string(text).render() == jinja.from_string(source).render()


def test_comments_that_silence_nothing_are_removed_where_nothing_changes() -> None:
    comment = "{# lf: ignore[LF052] #}"
    for source, left in (
        (f"a\n  {comment}\nb", "a\nb"),
        (f"a {comment} b", "a  b"),
        (f"a {comment.replace(' #}', ' +#}')}\nb", "a \nb"),
        (f"a {comment}\nb", None),  # it takes the line break with it
        (f"{comment} {comment}\nb", None),
    ):
        found = silence("p", [], ignores_in(source, 0), judged=lambda _code: True)
        assert fixed_text(source, found)[0] == (source if left is None else left)


def test_comments_are_found_quickly() -> None:
    assert ignores_in("{# nothing here #}\n" * 10_000, 0) == []
    assert len(ignores_in("{# lf: ignore[LF052] #}\n" * 300, 0)) == 300


# --- fixes


def edit(line: int, start: int, end: int, text: str, *, end_line: int | None = None) -> Edit:
    return Edit(line=line, column=start, end_line=end_line or line, end_column=end, text=text)


def finding(*edits: Edit, code: str = "LF012") -> Finding:
    return Finding(code=code, severity="error", path="p", message="m", line=1, column=1, edits=edits)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_edits_keep_the_line_breaks(end: str) -> None:
    source = end.join(["ä<b>c", "äöü", "last"])
    text, mended = fixed_text(source, [finding(edit(1, 3, 4, "BB"), edit(2, 2, 3, "")), finding(edit(3, 5, 5, "!"))])
    assert text == end.join(["ä<BB>c", "äü", "last!"])
    assert len(mended) == 2


def test_edits_that_overlap_wait_for_the_next_time() -> None:
    first, second, third = (
        finding(edit(1, 1, 4, "x")),
        finding(edit(1, 3, 6, "y"), edit(1, 7, 8, "z")),
        finding(edit(1, 4, 5, "w")),
    )
    text, mended = fixed_text("abcdefgh", [first, second, third])
    assert (text, mended) == ("xwefgh", (first, third))


def test_edits_that_are_nowhere_are_left() -> None:
    lost = [finding(edit(9, 1, 2, "x")), finding(edit(1, 9, 9, "x")), finding(edit(1, 3, 2, "x")), finding()]
    assert fixed_text("abc", lost) == ("abc", ())
    assert fixed_text("a\nb", [finding(edit(2, 1, 1, "", end_line=3))]) == (
        "a\n",
        (finding(edit(2, 1, 1, "", end_line=3)),),
    )


@given(
    st.text(alphabet="ab\n\r\tä漢", max_size=30),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8), st.text("XY", max_size=3)), max_size=5),
)
@settings(max_examples=100)
def test_what_no_edit_touches_stays(source: str, edits: list[tuple[int, int, int, str]]) -> None:
    text, mended = fixed_text(source, [finding(edit(*one)) for one in edits])
    removed = sum(one.edits[0].end_column - one.edits[0].column for one in mended)
    added = sum(len(one.edits[0].text) for one in mended)
    assert len(text) == len(source) - removed + added
    if not mended:
        assert text == source


def test_a_file_is_mended_or_left(tmp_path: Path) -> None:
    file = tmp_path / "p"
    checked = "\ufeffabc\r\n".encode()
    file.write_bytes(checked)
    file.chmod(0o640)
    one = finding(edit(1, 2, 3, "X"))
    changed = fix_file(file, "p", checked, findings=[one], before=[one], recheck=lambda _text: [])
    assert changed.mended == (one,)
    assert file.read_bytes() == "\ufeffaXc\r\n".encode()
    assert file.stat().st_mode & 0o777 == 0o640
    # it is another file by now
    late = fix_file(file, "p", checked, findings=[one], before=[one], recheck=lambda _text: [])
    assert "changed since it was checked" in late.refused
    assert file.read_bytes() == "\ufeffaXc\r\n".encode()
    worse = fix_file(
        file, "p", file.read_bytes(), findings=[one], before=[one], recheck=lambda _text: [finding(code="LF001")]
    )
    assert "LF001" in worse.refused
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_fixes_of_prompts_and_partials(tmp_path: Path) -> None:
    session = prompts(
        tmp_path,
        a=HEADER + "{% if n > '20' %}{{ gnre | or_else('x') }}{% endif %}{{ kind }}{% include '_shared/s.j2' %}\n",
        b=HEADER + "{% include '_shared/s.j2' %}\n{# lf: ignore[LF052] #}\n{{ n }}{{ genre or 1 }}{{ kind }}\n",
        _shared_s="{{ n | uper }}\n",
    )
    assert {("LF012", 7), ("LF010", 7), ("LF011", 1), ("LF080", 8)} <= set(codes(session))
    done = {one.path: [mended.code for mended in one.mended] for one in session.fix(session.findings())}
    assert done == {
        "prompts/a.prompt.j2": ["LF012", "LF010"],
        "prompts/b.prompt.j2": ["LF080"],
        "prompts/_shared/s.j2": ["LF011"],
    }
    assert (tmp_path / "prompts" / "a.prompt.j2").read_text().startswith(HEADER + "{% if n > 20 %}{{ genre | or_else")
    assert (tmp_path / "prompts" / "b.prompt.j2").read_text().splitlines()[7].startswith("{{ n }}")
    assert codes(session) == []


# --- carets


@pytest.mark.parametrize(
    ("line", "start", "end", "shown"),
    [
        ("{{ abc }}", 4, 7, ["5 | {{ abc }}", "  |    ^^^"]),
        ("\t{{ abc }}", 5, 8, ["5 |     {{ abc }}", "  |        ^^^"]),
        ("a\t{{ b }}", 6, 7, ["5 | a   {{ b }}", "  |        ^"]),
        ("漢字 {{ 漢 }}", 7, 8, ["5 | 漢字 {{ 漢 }}", "  |         ^^"]),
        ("e\u0301 {{ x }}", 7, 8, ["5 | e\u0301 {{ x }}", "  |      ^"]),
        ("\u202eab {{ x }}", 8, 9, ["5 | \\u202eab {{ x }}", "  |             ^"]),
        ("{{ x", 5, 6, ["5 | {{ x", "  |     ^"]),
        ("", 1, 1, ["5 |", "  | ^"]),
    ],
)
def test_carets_are_below_the_place(line: str, start: int, end: int, shown: list[str]) -> None:
    found = Finding(
        code="LF010", severity="error", path="p", message="m", line=5, column=start, end_line=5, end_column=end
    )
    text = output.plain(output.text_lines(found, lambda _path: "\n\n\n\n" + line))
    assert text.split("\n")[2:] == shown


def test_places_of_all_kinds() -> None:
    def text(**fields: int | str) -> list[str]:
        made = Finding(code="LF010", severity="warning", path="p", message="m\x1b[31m\nn", **fields)  # pyright: ignore[reportArgumentType]
        return output.plain(
            output.text_lines(made, lambda _path: "one\ntwo {%\nthree" if made.line != 9 else None)
        ).split("\n")

    assert text() == ["warning[LF010]: m\\x1b[31m n", "  --> p"]
    assert text(line=2, help="do it")[1:] == ["  --> p:2", "2 | two {%", "  = help: do it"]
    assert text(line=2, column=5, end_line=3, end_column=2)[2:] == ["2 | two {%", "  |     ^^"]
    assert text(line=9, column=5)[1:] == ["  --> p:9:5"]
    assert text(line=8, column=5)[1:] == ["  --> p:8:5"]


@given(st.text(max_size=300), st.integers(1, 310), st.integers(0, 40))
@settings(max_examples=150)
def test_any_line_is_shown_narrow_enough(line: str, column: int, length: int) -> None:
    line = "".join(one for one in line if one not in "\r\n")
    found = Finding(
        code="LF010",
        severity="error",
        path="p",
        message="m",
        line=1,
        column=column,
        end_line=1,
        end_column=column + length,
    )
    rows = output.plain(output.text_lines(found, lambda _path: line)).split("\n")
    assert len(rows) == 4
    assert rows[3].count("^") >= 1
    assert all(sum(not unicodedata.combining(one) for one in row) <= 130 for row in rows[2:])  # cells, not characters
    assert all(row.isprintable() for row in rows)


def test_a_line_fits_a_narrow_terminal() -> None:
    line = "on and " * 20 + "{{ plna }}" + " and on" * 20
    found = Finding(
        code="LF010", severity="error", path="p", message="m", line=1, column=144, end_line=1, end_column=148
    )
    shown, carets = output.plain(output.text_lines(found, lambda _path: line, 74)).split("\n")[2:]
    assert len(shown) <= 80
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "plna"


# --- sessions


def test_a_session_checks_again_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = prompts(tmp_path, a=HEADER + "{{ n }}", b="{% include '_shared/s.j2' %}", _shared_s="hi", _shared_t="")
    checked: list[str] = []
    real = session._check

    def check(name: str) -> object:
        checked.append(name)
        return real(name)

    monkeypatch.setattr(session, "_check", check)
    session.findings()
    session.findings(["a"])
    assert checked == ["a", "b"]
    (tmp_path / "prompts" / "a.prompt.j2").write_text("{{ nn }}")
    assert codes(session, "a") == [("LF010", 1)]
    assert checked == ["a", "b", "a"]
    (tmp_path / "prompts" / "_shared" / "s.j2").write_text("{{ nn }}")
    assert codes(session, "b") == [("LF010", 1)]
    assert checked == ["a", "b", "a", "b"]
    (tmp_path / "prompts" / "_shared" / "t.j2").write_text("nobody uses it")
    session.findings()
    assert checked == ["a", "b", "a", "b"]
    assert session.users_of(["_shared/s.j2"]) == ["b"]
    (tmp_path / "prompts" / "_shared" / "s.j2").unlink()
    assert codes(session, "b") == [("LF003", 1)]
    with pytest.raises(UnknownNameError):
        session.findings(["c"])


def test_two_processes_give_the_same_in_order() -> None:
    items = list(range(61))
    assert in_two(lambda n: n * n, items, 2) == in_two(lambda n: n * n, items, 1) == [n * n for n in items]


def test_an_error_in_the_other_process_is_met_here() -> None:
    def odd(n: int) -> int:
        if n == 41:
            raise RenderError("of the item")
        return n

    with pytest.raises(RenderError, match="of the item"):
        in_two(odd, list(range(60)), 2)


@pytest.mark.timeout(60)
def test_an_error_here_does_not_wait_for_the_other_process() -> None:
    def even(n: int) -> str:
        if n == 40:
            raise RenderError("of the item")
        return "x" * 10_000  # more than a pipe holds

    with pytest.raises(RenderError, match="of the item"):
        in_two(even, list(range(60)), 2)
