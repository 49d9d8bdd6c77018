"""Files of cases: what they may say, and where each mistake is."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.cases.file import AS_OF, parse_cases
from llmfeatures.cases.nodes import Reader, canonical
from llmfeatures.errors import InvalidValueError, PromptError
from llmfeatures.types import parse_dtype


def test_everything_that_a_case_can_say() -> None:
    case, second = parse_cases(
        """
- id: heavy_viewer
  description: Much
  features: &known {segment: power_user, watched: 47}
  statuses: {genre: null, other: expired}
  ages: {watched: 8d}
  inputs: {question: "Why?"}
  keys: {user_id: 8a2f}
  as_of: 2026-05-07T22:00:00+02:00
  expect:
    contains: [deep cuts, 'no: "end"']
    not_contains: None
    matches: "^a.*z$"
    max_tokens: 400
    messages: [{role: system, contains: x}, {role: user}]
    snapshot: true
- id: again
  features: {<<: *known, watched: 1}
""",
        path="p",
    )
    assert (case.id, case.line, case.column, case.description) == ("heavy_viewer", 2, 3, "Much")
    assert {name: one.value for name, one in case.features.items()} == {"segment": "power_user", "watched": 47}
    assert {name: status for name, (status, _) in case.statuses.items()} == {"genre": "null", "other": "expired"}
    assert case.ages["watched"][0] == timedelta(days=8)
    assert case.as_of == datetime(2026, 5, 7, 20, tzinfo=UTC)
    assert [one.text for one in case.expect.texts.contains] == ["deep cuts", 'no: "end"']
    assert [one.text for one in case.expect.texts.not_contains] == ["None"]
    assert case.expect.max_tokens is not None
    assert case.expect.max_tokens.value == 400
    assert case.expect.messages is not None
    assert [one.role.text for one in case.expect.messages] == ["system", "user"]
    assert case.expect.snapshot is not None
    assert (case.expect.snapshot.line, case.expect.snapshot.column) == (16, 15)
    assert {name: one.value for name, one in second.features.items()} == {"segment": "power_user", "watched": 1}
    assert second.as_of == AS_OF


def test_an_empty_file_has_no_cases() -> None:
    assert parse_cases("", path="p") == ()
    assert parse_cases("# nothing yet\n", path="p") == ()


MISTAKES = [
    ("id: a", "1:1", "a list"),
    ("- a", "1:3", "a mapping that begins with its id"),
    ("- features: {a: 1}", "1:3", "needs an id"),
    ("- id: 1", "1:7", 'YAML reads 1 as a number; put it in quotes'),
    ("- id: no", "1:7", "YAML reads no as true or false"),
    ("- id: a b", "1:7", "an id has ASCII letters"),
    ("- id: ../a", "1:7", "an id has ASCII letters"),
    ("- id: a\n- id: A", "2:3", "given twice, also on line 1"),
    ("- id: a\n  feature: {}", "2:3", "did you mean 'features'"),
    ("- id: a\n  id: b", "2:3", "'id' is given twice"),
    ("- id: a\n  features: {x: 1, x: 2}", "2:20", "'x' is given twice"),
    ("- id: a\n  features: [x]", "2:13", "a mapping of names"),
    ("- id: a\n  features: {no: 1}", "2:14", "YAML reads the name no as true or false"),
    ("- id: a\n  features: {{x}: 1}", "2:14", "put {{ }} in quotes"),
    ("- id: a\n  features: {x: list[str]}", "2:21", "no YAML"),
    ("- id: a\n  statuses: {x: expird}", "2:17", "did you mean 'expired'"),
    ("- id: a\n  statuses: {x: present}", "2:17", "under features"),
    ("- id: a\n  features: {x: 1}\n  statuses: {x: expired}", "3:17", "a value and a status"),
    ("- id: a\n  ages: {x: 8}", "2:13", "no duration"),
    ("- id: a\n  as_of: yesterday", "2:10", "as_of is not an ISO 8601 date or time"),
    ("- id: a\n  documents: {d: x}", "2:18", "d is a list of documents"),
    ("- id: a\n  documents: {d: [{id: x}]}", "2:19", "a document needs its text"),
    ("- id: a\n  documents: {d: [{text: x, txt: y}]}", "2:29", "unknown key 'txt'"),
    ("- id: a\n  documents: {d: [{text: 7}]}", "2:26", "text is text; YAML reads 7 as a number"),
    ("- id: a\n  expect: {contain: x}", "2:12", "did you mean 'contains'"),
    ("- id: a\n  expect: {contains: 5}", "2:22", "YAML reads 5 as a number"),
    ("- id: a\n  expect: {contains: [x, yes]}", "2:26", "YAML reads yes as true or false"),
    ("- id: a\n  expect: {matches: '('}", "2:21", "no regular expression"),
    ("- id: a\n  expect: {max_tokens: 0}", "2:24", "a whole number from 1"),
    ("- id: a\n  expect: {max_tokens: '5'}", "2:24", "a whole number from 1"),
    ("- id: a\n  expect: {snapshot: 1}", "2:22", "true or false"),
    ("- id: a\n  expect: {error: x, contains: y}", "2:12", "expects nothing else"),
    ("- id: a\n  expect: {error: [x]}", "2:19", "one text"),
    ("- id: a\n  expect: {error: ''}", "2:19", "error is empty"),
    ("- id: a\n  expect: {contains: [x, '']}", "2:26", "contains is empty"),
    ("- id: a\n  expect: {sections: {x: drop}}", "2:26", "did you mean 'dropped'"),
    ("- id: a\n  expect: {messages: {}}", "2:22", "a list of all messages"),
    ("- id: a\n  expect: {messages: [{contains: x}]}", "2:23", "needs its role"),
    ("- id: a\n  expect: {messages: [{role: sytem}]}", "2:30", "did you mean 'system'"),
    ("- id: a\n  features: {x: &x [*x]}", "2:17", "an alias stands for itself"),
    ("- id: a\n  features: {x: 2026-13-01}", "2:17", "YAML cannot read this"),
    ("- id: a\n\tfeatures: {}", "2:1", "no YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "where", "said"), MISTAKES)
def test_a_mistake_is_an_error_at_its_place(source: str, where: str, said: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_cases(source, path="prompts/p.cases.yaml")
    assert said in caught.value.message
    assert f"{caught.value.line}:{caught.value.column}" == where


def test_much_out_of_little_is_refused() -> None:
    levels = "\n".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))
    with pytest.raises(PromptError, match="for too much"):
        parse_cases(f"- id: a\n  l0: &l0 [x]\n{levels}", path="p")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(source: str) -> None:
    with contextlib.suppress(PromptError):
        parse_cases(source, path="p")


# -- values ----------------------------------------------------------------------------------------------------------


def value_of(written: str, dtype: str) -> Any:
    reader = Reader(written, "p")
    assert reader.root is not None
    return canonical("x", parse_dtype(dtype), reader.given(reader.root))


TRAPS = [
    ("no", "str", 'YAML reads no as true or false: write "no"'),
    ("on", "enum[on,off]", 'write "on"'),
    ("12:30", "str", 'YAML reads 12:30 as a number: write "12:30"'),
    ("1e3", "float", "YAML reads 1e3 as text: write it without an exponent"),
    ("'5'", "int", "write 5 without quotes"),
    ("'true'", "bool", "write true without quotes"),
    ("12:30", "int", "YAML reads 12:30 as the number 750"),
    ("010", "int", "YAML reads 010 as the number 8"),
    ("2026-05-07", "str", 'YAML reads 2026-05-07 as a date or time: write "2026-05-07"'),
    ("casul", "enum[casual,power]", "did you mean 'casual'"),
    ("1.5", "int", "a float is no int"),
    (".nan", "float", "no finite number"),
    ("[1, null]", "list[int]", "a null inside"),
    ("1.234", "decimal(4,2)", "cannot hold exactly"),
]


@pytest.mark.parametrize(("written", "dtype", "said"), TRAPS)
def test_what_yaml_reads_otherwise(written: str, dtype: str, said: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        value_of(written, dtype)
    assert said in str(caught.value)
    assert str(caught.value).startswith("x: ")


@pytest.mark.parametrize(
    ("written", "dtype", "value"),
    [
        ("12.50", "decimal(6,2)", Decimal("12.50")),
        ("0.1", "decimal(20,18)", Decimal("0.100000000000000000")),
        ("1_000", "decimal(6,2)", Decimal("1000.00")),
        ("5", "float", 5.0),
        ("null", "str", None),
        ("~", "int", None),
        ("yes", "bool", True),
        ("2026-05-07", "date", date(2026, 5, 7)),
        ('"2026-05-07"', "date", date(2026, 5, 7)),
        ("2026-05-07T22:00:00.5+02:00", "timestamp", datetime(2026, 5, 7, 20, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-05-07 22:00:00", "timestamp", datetime(2026, 5, 7, 22, tzinfo=UTC)),
        ("{b: [1, x], a: null}", "json", {"b": [1, "x"], "a": None}),
        ("[a, b]", "list[str]", ["a", "b"]),
    ],
)
def test_values(written: str, dtype: str, value: Any) -> None:
    made = value_of(written, dtype)
    assert made == value
    assert type(made) is type(value)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(st.characters(codec="utf-8")),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "date": st.dates(),
    "timestamp": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
    "json": st.dictionaries(st.text("ab", min_size=1), st.integers() | st.none() | st.text("xy:#")),
    "list[str]": st.lists(st.text("ab \n#:")),
}


@given(st.sampled_from(sorted(SCALARS)).flatmap(lambda one: st.tuples(st.just(one), SCALARS[one])))
def test_what_yaml_wrote_is_read_back(drawn: tuple[str, Any]) -> None:
    dtype, value = drawn
    made = value_of(yaml.safe_dump(value, allow_unicode=True), dtype)
    wanted = parse_dtype(dtype).canonical(value)
    assert made == wanted
    assert not isinstance(wanted, float) or math.copysign(1, made) == math.copysign(1, wanted)
