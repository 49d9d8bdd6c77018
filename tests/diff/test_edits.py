"""Edits: shortest, applied they give the new text, and the same whatever the values are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.diff.edits import REWRITTEN, VALUE, Edit, Editor, Message, RoleEdit
from llmfeatures.diff.kinds import kind_of
from llmfeatures.diff.sequences import hunks
from llmfeatures.diff.vocabulary import Vocabulary, tokens_of

SEQUENCES = st.lists(st.sampled_from("abcd"), max_size=12)


def _distance(old: list[str], new: list[str]) -> int:
    """Removed and added elements of a shortest edit, by the textbook's table."""
    row = list(range(len(new) + 1))
    for place, one in enumerate(old, 1):
        before, row[0] = row[0], place
        for at, other in enumerate(new, 1):
            before, row[at] = row[at], before if one == other else 1 + min(row[at], row[at - 1])
    return row[-1]


@given(SEQUENCES, SEQUENCES, st.sampled_from([0, 2, 100]))
def test_hunks_turn_one_sequence_into_the_other(old: list[str], new: list[str], most: int) -> None:
    made: list[str] = []
    at = place = spent = 0
    for one in hunks(old, new, most):
        assert old[at : one.low] == new[place : one.start]
        assert one.high > one.low or one.end > one.start
        made += old[at : one.low] + new[one.start : one.end]
        at, place = one.high, one.end
        spent += one.high - one.low + one.end - one.start
    assert made + old[at:] == new
    if most == 100:
        assert spent == _distance(old, new)


@given(st.text(alphabet="ab 1.,-'\n\t_é…😀", max_size=30))
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


BEFORE = "You help a {a} viewer.\nThey watched {n} titles in the last 30 days.\nBio: {b}\nSuggest 3 titles."
AFTER = (
    "You help a {a} person.\n\nThey watched {n} films in the last 30 days.\nAbout them: {b}\nSuggest 3 titles, briefly."
)


def _editor(*templates: str) -> Editor:
    return Editor(Vocabulary.of([piece for one in templates for piece in re.split(r"\{.\}", one)]))


WORDS = st.lists(
    st.sampled_from(["I", "like", "the", "last", "titles", "sea", "3", "Bio", "a,", "b:", "days."]),
    min_size=1,
    max_size=9,
).map(" ".join)


@given(WORDS, WORDS, st.integers(0, 10**6))
def test_edits_do_not_depend_on_values(one: str, other: str, number: int) -> None:
    """Also not where values hold the author's words: with them as masks, there is one group."""
    values = {"a": one, "b": other, "n": str(number)}
    editor = _editor(BEFORE, AFTER)
    old, new = (Message("system", text.format(**values)) for text in (BEFORE, AFTER))
    assert editor.edits([old], [new], [one, other]) == (
        Edit("system", "viewer", "person"),
        Edit("system", "", "\n"),
        Edit("system", "titles", "films"),
        Edit("system", "Bio", "About them"),
        Edit("system", "", ", briefly"),
    )


def test_a_value_in_another_form_is_no_word() -> None:
    editor = _editor("watched {n} titles", "watched {n} titles")
    edits = {
        editor.edits([Message("system", f"watched {number} titles")], [Message("system", f"watched {number:,} titles")])
        for number in (1000, 2500, 123_456_789)
    }
    assert edits == {(Edit("system", VALUE, VALUE),)}


def test_messages_that_come_go_and_change_their_role() -> None:
    editor = _editor("Be kind.", "Hello {a}", "Bye")
    system, user, developer = (
        Message("system", "Be kind."),
        Message("user", "Hello x"),
        Message("developer", "Be kind."),
    )
    assert editor.edits([system], [system, user]) == (RoleEdit(None, "user"), Edit("user", "", f"Hello {VALUE}"))
    assert editor.edits([system, user], [user]) == (RoleEdit("system", None), Edit("system", "Be kind.", ""))
    assert editor.edits([system, user], [developer, user]) == (RoleEdit("system", "developer"),)


def test_a_rewritten_message_has_no_list_of_words() -> None:
    old, new = (" ".join(f"{letter}{number}" for number in range(300)) for letter in "ab")
    editor = _editor(f"{old} {{a}}", f"{new} {{a}}")
    edits = editor.edits([Message("system", f"{old} x y")], [Message("system", f"{new} x y")])
    assert edits == (Edit("system", REWRITTEN, REWRITTEN),)
    one = editor.edits([Message("system", f"{old} x y")], [Message("system", f"{old[:-4]}new x y")])
    assert one != edits


def test_kinds() -> None:
    old = Vocabulary.of(["Viewer: ", " (heavy viewer)", "light viewer", "\n"])
    new = Vocabulary.of(["Person: ", " (heavy viewer)", "light viewer", "\n"])
    assert kind_of((Edit("system", "", "\n"),), old, new) == "white space"
    assert kind_of((Edit("system", VALUE, VALUE),), old, new) == "values"
    assert kind_of((Edit("system", " (heavy viewer)", ""),), old, new) == "branch"
    assert kind_of((Edit("system", "heavy viewer", "light viewer"),), old, new) == "branch"
    assert kind_of((Edit("system", "Viewer", "Person"),), old, new) == "words"
    assert kind_of((RoleEdit(None, "user"), Edit("user", "", "Hi")), old, new) == "messages"
