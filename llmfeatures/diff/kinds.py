"""What kind of change some edits are, in terms of what an author did to a template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from llmfeatures.diff.edits import VALUE, Edit, Edits, RoleEdit
from llmfeatures.diff.vocabulary import Vocabulary

Kind = Literal["messages", "words", "branch", "values", "white space", "error now", "fixed now", "other"]

MEANS: Final[dict[Kind, str]] = {
    "messages": "a message is there, or has a role, that it had not",
    "words": "the template's own words changed",
    "branch": "the same words of the template, chosen otherwise: by a condition, or by a budget",
    "values": "a value's text changed, and no word of the template",
    "white space": "only spaces and line breaks changed",
    "error now": "the prompt could be built before, and cannot now",
    "fixed now": "the prompt could not be built before, and can now",
    "other": "changes beyond the number that is kept apart",
}
"""What each kind means, for people."""


def kind_of(edits: Edits, old: Vocabulary, new: Vocabulary) -> Kind:
    """The kind of some edits between prompts of templates with these vocabularies."""
    if any(isinstance(one, RoleEdit) for one in edits):
        return "messages"
    texts = [one for one in edits if isinstance(one, Edit)]
    if not any((one.removed + one.added).strip() for one in texts):
        return "white space"
    removed = [phrase for one in texts for phrase in _phrases(one.removed)]
    added = [phrase for one in texts for phrase in _phrases(one.added)]
    if not any(any(letter.isalnum() for letter in phrase) for phrase in (*removed, *added)):
        return "values" if any(VALUE in one.removed + one.added for one in texts) else "words"
    if all(map(new.says, removed)) and all(map(old.says, added)):
        return "branch"
    return "words"


def _phrases(shown: str) -> Iterator[str]:
    """The stretches that an author wrote, each within a line."""
    for line in shown.split("\n"):
        yield from filter(None, (one.strip() for one in line.split(VALUE)))
