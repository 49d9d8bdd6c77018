"""What the tests of the checker's engine share: the corpus, values of a prompt's types, and prompts made worse."""

from __future__ import annotations

import random
import re
import tomllib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmfeatures.checker.engine import PromptReport, check_prompt
from llmfeatures.context import FeatureValue
from llmfeatures.document_plan import DocumentPlan, FoundDocument, found_documents
from llmfeatures.ports import Document
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import PromptEnvironment, make_environment
from llmfeatures.prompts.file import PromptFile, parse_prompt, prompt_names, read_prompt
from llmfeatures.types import DType

from .features import registry

HERE = Path(__file__).parent
NOW = datetime(2026, 5, 7, 22, tzinfo=UTC)
_PIECE = re.compile(r"\w+|\s+|.", re.DOTALL)


def environment(kind: str) -> PromptEnvironment:
    """The environment of one half of the corpus."""
    return make_environment(HERE / kind)


def names(kind: str) -> list[str]:
    """The prompts of one half of the corpus."""
    return prompt_names(HERE / kind)


def read(kind: str, name: str) -> PromptFile:
    """A prompt of the corpus."""
    return read_prompt(HERE / kind, name)


def expected() -> dict[str, str]:
    """What is to be said of each faulty prompt."""
    return tomllib.loads((HERE / "faulty" / "expect.toml").read_text(encoding="utf-8"))


def check(file: PromptFile, env: PromptEnvironment) -> PromptReport:
    """The report on a prompt."""
    return check_prompt(registry, file, env)


def check_text(text: str, env: PromptEnvironment | None = None) -> list[str]:
    """The findings of a prompt's text, as ``CODE line:column``."""
    file = parse_prompt(text, name="example", path="prompts/example.prompt.j2")
    return [said(one, file) for one in check(file, env or environment("correct")).findings]


def said(finding: Any, file: PromptFile) -> str:
    """A finding as the expectations write it."""
    place = "" if finding.line is None else str(finding.line)
    place += "" if finding.column is None else f":{finding.column}"
    other = "" if finding.path == file.path else Path(finding.path).relative_to(HERE / "faulty").as_posix()
    return " ".join(part for part in (finding.code, other, place) if part)


# -- values ----------------------------------------------------------------------------------------------------------

_TEXTS = ("", "drama", "a, b", "A 'quoted' word", "zwei Wörter\nund eine Zeile", "x" * 40, "7", "{{ x }}")


def drawn(dtype: DType, chance: random.Random) -> Any:
    """A canonical value of a dtype."""
    match dtype.kind:
        case "enum":
            return chance.choice(dtype.words)
        case "str":
            return chance.choice(_TEXTS)
        case "int":
            return chance.choice((0, 1, 3, 21, -2, 99))
        case "float":
            return chance.choice((0.0, 1.5, 60.0, -3.25, 1e20))
        case "bool":
            return chance.random() < 0.5
        case "decimal":
            return Decimal(chance.choice((0, 1, 950, 1999))).scaleb(-dtype.scale)
        case "date":
            return date(2026, 5, 7) - timedelta(days=chance.choice((0, 1, 400, 9000)))
        case "timestamp":
            return NOW - timedelta(seconds=chance.choice((0, 5, 4000, 10**7)))
        case "list":
            assert dtype.item is not None
            return [drawn(dtype.item, chance) for _ in range(chance.choice((0, 1, 3)))]
        case _:
            return chance.choice(({}, {"a": 1}, []))


def render(plan: PromptPlan, chance: random.Random) -> Any:
    """The prompt for drawn values, some of which are not there."""
    slots = [_slot(ref, chance) for ref in plan.features.refs]
    keys = {name: drawn(dtype, chance) for name, dtype in plan.features.parameters.items()}
    inputs: dict[str, Any] = {}
    for name, one in plan.inputs.items():
        optional = one.default is None and chance.random() < 0.4
        inputs[name] = None if optional else drawn(one.dtype, chance)
    return plan.finish(slots, keys, inputs, NOW, [_documents(one, inputs, chance) for one in plan.documents])


def _documents(plan: DocumentPlan, inputs: dict[str, Any], chance: random.Random) -> list[FoundDocument]:
    """Documents that a search may give, with drawn metadata and features."""
    found = [
        Document(
            id=f"d{number}",
            version="1",
            text=drawn(DType("str"), chance),
            score=None if plan.query is None else chance.choice((0.0, 0.75, -0.5)),
            metadata={
                name: None if chance.random() < 0.3 else drawn(dtype, chance)
                for name, dtype in plan.retriever.metadata.items()
            },
        )
        for number in range(chance.choice((0, 1, 3)))
    ]
    slots = {one.entity: [[_slot(ref, chance) for ref in one.features.refs] for _ in found] for one in plan.brought}
    return found_documents(plan, found, "exact", slots, inputs, NOW)


def _slot(ref: Any, chance: random.Random) -> FeatureValue:
    absent = chance.random() < 0.3 and (not ref.printed or _stands_in(ref))
    value = None if absent else drawn(ref.dtype, chance)
    return FeatureValue(value, "missing" if absent else "present", None if absent else NOW)


def _stands_in(ref: Any) -> bool:
    from llmfeatures.prompts.file import ABSENT

    return ref.policy.default is not ABSENT or ref.policy.on_missing == "none"


# -- mutations -------------------------------------------------------------------------------------------------------


def worse(text: str, others: list[str], chance: random.Random) -> str:
    """A prompt with a few pieces of its body dropped, doubled, swapped, or taken from another prompt."""
    head, body = _split(text)
    pieces = _PIECE.findall(body)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if not pieces:
            break
        at = chance.randrange(len(pieces))
        match chance.randrange(5):
            case 0:
                del pieces[at : at + chance.choice((1, 1, 2, 6))]
            case 1:
                other = chance.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 2:
                pieces.insert(at, chance.choice(pieces))
            case 3:
                foreign = _PIECE.findall(_split(chance.choice(others))[1])
                start = chance.randrange(max(len(foreign), 1))
                pieces[at:at] = foreign[start : start + chance.choice((1, 5, 20))]
            case _:
                words = [piece for piece in _PIECE.findall(_split(chance.choice(others))[1]) if piece.isidentifier()]
                if words and pieces[at].isidentifier():
                    pieces[at] = chance.choice(words)
    return head + "".join(pieces)


def _split(text: str) -> tuple[str, str]:
    if not text.startswith("---\n"):
        return "", text
    end = text.index("\n---\n", 3) + 5
    return text[:end], text[end:]
