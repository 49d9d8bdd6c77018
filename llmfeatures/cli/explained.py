"""A prompt with what was interpolated into it visible, and what its parts are, as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmfeatures.cli import terminal

if TYPE_CHECKING:
    from rich.text import Text

    from llmfeatures.context import PromptContext
    from llmfeatures.explain import Explanation, Piece

_STYLES = {"value": "bold yellow", "fence": "dim"}


def write_explained(made: PromptContext, user: str | None = None) -> None:
    """The prompt, in which each interpolated part is in colour, or between « and » without colours; then its parts."""
    from llmfeatures.explain import explain_text, explained

    explanation = explained(made)
    write_marked(explanation, user)
    terminal.write(f"\n{explain_text(explanation)}")


def write_marked(explanation: Explanation, user: str | None = None) -> None:
    """The prompt alone, marked."""
    if terminal.coloured():
        terminal.write_styled(_styled(explanation, user))
    else:
        terminal.write("".join(text for text, _ in _parts(explanation, user)))


def _styled(explanation: Explanation, user: str | None) -> Text:
    from rich.text import Text

    made = Text()
    for text, piece in _parts(explanation, user, marks=False):
        made.append(text, style="" if piece is None else _STYLES.get(piece.kind, ""))
    return made


def _parts(explanation: Explanation, user: str | None, *, marks: bool = True) -> list[tuple[str, Piece | None]]:
    """The text in parts, each with the piece that it is."""
    alone = user is None and [one.role for one in explanation.messages] == ["system"]
    parts: list[tuple[str, Piece | None]] = []
    for number, message in enumerate(explanation.messages):
        if not alone:
            between = "\n\n" if number else ""
            parts.append((f"{between}[{message.role}]\n", None))
        parts += [
            (f"«{piece.text}»" if marks and piece.kind == "value" else piece.text, piece) for piece in message.pieces
        ]
    if user is not None:
        explanation.context.chat(user)  # says so when the prompt ends in a user message already
        parts.append((f"\n\n[user]\n{user}", None))
    return parts
