"""What is known of the items of a list: which guards leave none without a value, and what several searches have."""

from __future__ import annotations

import random

import pytest

from llmfeatures.checker.findings import Finding
from llmfeatures.compile import compile_plan
from llmfeatures.prompts.file import PromptFile, parse_prompt

from .engine_cases import check, environment, registry, render

ENVIRONMENT = environment("correct")
HEADER = """---
features: {{last_genre: {{default: ''}}}}
inputs: {{question: str}}
documents:
  found: {{retriever: reviews, query: "{{{{ question }}}}"{found}}}
  new: {{retriever: notes, order: recent}}
---
"""
ELSEWHERE = {"LF025", "LF031", "LF041", "LF060", "LF061", "LF065"}


def prompt(body: str, found: str = "") -> PromptFile:
    return parse_prompt(HEADER.format(found=found) + body, name="example", path="example")


def findings(body: str, found: str = "") -> list[Finding]:
    return [one for one in check(prompt(body, found), ENVIRONMENT).findings if one.code not in ELSEWHERE]


GUARDED = [
    '{{ found|rejectattr("metadata.stars", "none")|sum(attribute="metadata.stars") }}',
    '{{ found|selectattr("metadata.stars", "ne", none)|sum(attribute="metadata.stars") }}',
    '{{ found|selectattr("metadata.stars")|list|sum(attribute="metadata.stars") }}',
    '{{ found|rejectattr("metadata.stars", "none")|sort(attribute="metadata.stars")|bullets }}',
    '{{ found|rejectattr("metadata.stars", "none")|selectattr("metadata.stars", "gt", 3)|list|length }}',
    '{% for d in found|rejectattr("metadata.stars", "none") %}{{ d.metadata.stars + 1 }}{% endfor %}',
    '{{ found|rejectattr("metadata.stars", "none")|map(attribute="metadata.stars")|join }}',
    '{% for d in new|rejectattr("score", "none") %}{{ d.score }}{% endfor %}',
    '{{ found|map(attribute="score")|max if found else "none" }}',
    '{% if found %}{{ found|map(attribute="score")|sort|first }}{% endif %}',
    '{% set few = found|selectattr("score", "gt", 0.5)|list %}{% if few %}{{ few|first }}{% endif %}',
    "{% for d in found if d.text|wordcount > 0 %}{{ d.text.split()[0] }}{% endfor %}",
    "{% for d in found %}{% if d.text.split() %}{{ d.text.split()|first }}{% endif %}{% endfor %}",
    "{% for d in found + new if d.score is not none %}{{ d.score }}{% endfor %}",
    "{% for d in found or new %}{{ d.text }}{% endfor %}",
    "{% for d in found + new %}{{ d.metadata.stars|default(1)|or_else(2) }}{% endfor %}",
    """{% macro turn(a) %}{% message "user" %}{{ a }}{% endmessage %}{% if a == "1" %}{{ turn(a) }}{% endif %}
{%- endmacro %}{{ turn(question) }}""",
    """{% macro m(a) %}{{ caller() }}{% endmacro %}
{% call m(1) %}{% message "user" %}{{ question }}{% endmessage %}{% endcall %}""",
]


@pytest.mark.parametrize("body", GUARDED)
def test_a_guard_is_followed_and_holds(body: str) -> None:
    assert findings(body) == []
    plan = compile_plan(registry, prompt(body), ENVIRONMENT)
    for seed in range(25):
        render(plan, random.Random(seed))


FAULTY = [
    ('{{ found|sum(attribute="metadata.stars") }}', "LF022", "metadata.stars may be None"),
    ('{{ found|selectattr("metadata.stars", "none")|sum(attribute="metadata.stars") }}', "LF022", "metadata.stars may"),
    ('{{ found|rejectattr("metadata.language", "none")|sum(attribute="metadata.stars") }}', "LF022", "metadata.stars"),
    ('{{ found|selectattr("metadata.stars", "gt", 4)|list|length }}', "LF021", "metadata.stars may be None, and >"),
    ('{{ found|selectattr("metadata.stars", "odd")|list|length }}', "LF022", "metadata.stars may be None"),
    ("{% for d in found + new %}{{ d.score }}{% endfor %}", "LF020", "d.score"),
    ("{% for d in found or new %}{{ d.score }}{% endfor %}", "LF020", "d.score"),
    ("{% for d in (found if found else new) %}{{ d.score }}{% endfor %}", "LF020", "d.score"),
    ("{% for l in [found, new] %}{% for d in l %}{{ d.score }}{% endfor %}{% endfor %}", "LF020", "d.score"),
    ("{% for d in found + new %}{{ d.metadata.stars or 1 }}{% endfor %}", "LF026", "d.metadata.stars may be undefined"),
    ("{% for d in found + new %}{{ d.title.status }}{% endfor %}", "LF026", "d.title may be undefined"),
    ("{% for d in found + new %}{{ d.metadata.nope }}{% endfor %}", "LF016", "no .nope"),
    ("{% for d in found + new %}{{ d.nope }}{% endfor %}", "LF015", "no 'nope'"),
    *[
        (f'{outside}{{% message "user" %}}x{{% endmessage %}}', "LF008", "printed outside of messages")
        for outside in (
            "{{ last_genre }}",
            "{{ question }}",
            "{{ question if last_genre else '' }}",
            "{{ last_genre.upper() }}",
            "{% for d in found %}{{ d.text }}{% endfor %}",
            "{{ found|bullets }}",
        )
    ],
]


@pytest.mark.parametrize(("body", "code", "said"), FAULTY)
def test_what_may_fail_is_found_and_named(body: str, code: str, said: str) -> None:
    (one,) = [one for one in findings(body) if one.code != "LF023"]
    assert one.code == code
    assert said in one.message


def test_the_guard_that_a_finding_advises_is_one() -> None:
    (one,) = findings('{{ found|sum(attribute="metadata.stars") }}')
    advised = one.help.removeprefix("leave it out: ")
    assert advised == 'found|rejectattr("metadata.stars", "none")|sum(attribute="metadata.stars")'
    assert findings(f"{{{{ {advised} }}}}") == []
    (one,) = findings('{{ found|map(attribute="score")|max }}')
    assert one.help == "guard it with {% if found %}"
    (one,) = findings('{{ found|selectattr("score", "gt", 0.5)|first }}')
    setting, guard = one.help.removeprefix("write ").split(", and guard it with ")
    assert findings(f"{setting}{guard}{{{{ found|first }}}}{{% endif %}}") == []


@pytest.mark.parametrize(
    ("written", "codes"),
    [
        (", min_score: 1", []),
        (", min_score: 1.5", ["LF002"]),
        (", filter: {language: en}", []),
        (", filter: {language: null}", ["LF012"]),
    ],
)
def test_a_search_that_never_finds_anything(written: str, codes: list[str]) -> None:
    found = findings("{{ found|bullets }}", written)
    assert [one.code for one in found] == codes
    key = written[2:].partition(":")[0]
    assert all(one.line == 5 and key in one.message for one in found)
