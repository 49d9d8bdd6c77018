"""Prompts made by chance, of names that branches set and conditions that come again: where nothing is found, no value
makes the prompt fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llmfeatures.checker.engine import check_prompt
from llmfeatures.compile import compile_plan
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import read_prompt

from .engine_cases import registry, render

HEADER = """---
features:
  plan: {default: free}
  watch_count_30d: {default: 0}
  events_7d: {on_missing: none}
  last_genre: {on_missing: none}
  subscribed: {default: false}
  genres: {default: []}
  ratings: {on_missing: none}
---
"""
CONDITIONS = """plan == "free"|plan != "free"|plan in ["free", "basic"]|subscribed|not subscribed|watch_count_30d > 20
watch_count_30d > 0|events_7d is not none|events_7d is none|last_genre is none|last_genre|genres|not genres|x is none
x is not none|y is not none|x|ratings is not none|ratings|genres | length > 1|x == y|"a" in genres|n > 5
last_genre in genres|events_7d is not none and events_7d > 5|x == last_genre"""
TEXTS = """none|"t"|3|last_genre|events_7d|watch_count_30d|plan|genres_length|(last_genre if subscribed else none)
(3 if watch_count_30d > 20 else none)|x|y|(y or "q")"""
NUMBERS = ["3", "0", "watch_count_30d", "genres | length", "n + 1", "genres[:2] | length"]
USES = [
    *("{{ x }}", "{{ y }}", "{{ last_genre }}", "{{ events_7d + 1 }}", "{{ genres | first }}", "{{ genres[0] }}"),
    *("{% if n > 2 %}a{% endif %}", "{{ 3 / n }}", "{% for one in ratings %}{{ one }}{% endfor %}"),
    *("{% for one in genres %}{{ genres | last }}{{ x }}{% endfor %}", "{{ last_genre | upper }}", "{{ x }}"),
    *('{{ x | or_else("z") }}', "{{ ratings | max }}"),
]
TOLD = {"LF012", "LF027", "LF052"}


def _choices(written: str) -> list[str]:
    return [one.replace("genres_length", "genres | length") for line in written.splitlines() for one in _split(line)]


def _split(line: str) -> list[str]:
    return line.replace(" | ", "\0").replace("|", "\n").replace("\0", " | ").split("\n")


def _setting(chance: random.Random) -> str:
    name = chance.choice("xxyn")
    return f"{{% set {name} = {chance.choice(NUMBERS if name == 'n' else _choices(TEXTS))} %}}"


def _prompt(chance: random.Random) -> str:
    conditions = _choices(CONDITIONS)
    first, second = chance.sample(conditions, 2)
    made = f"{{% set x = {chance.choice(_choices(TEXTS)[:6])} %}}{{% set y = none %}}{{% set n = watch_count_30d %}}\n"
    made += f"{{% if {first} %}}{_setting(chance)}{{% elif {second} %}}{_setting(chance)}"
    made += f"{{% else %}}{_setting(chance)}{{% endif %}}\n" if chance.random() < 0.7 else "{% endif %}\n"
    again = chance.choice([first, first, f"not ({first})", second, chance.choice(conditions)])
    if chance.random() < 0.3:
        again += f" and {chance.choice(conditions)}"
    made += f"{{% if {again} %}}{chance.choice(USES)}"
    if chance.random() < 0.3:
        made += f"{{% elif {chance.choice(conditions)} %}}{chance.choice(USES)}"
    return made + (f"{{% else %}}{chance.choice(USES)}{{% endif %}}" if chance.random() < 0.3 else "{% endif %}")


@pytest.mark.parametrize("part", range(4))
def test_what_is_not_found_does_not_fail(tmp_path: Path, part: int):
    environment = make_environment(tmp_path)
    silent = 0
    for seed in range(part * 100, part * 100 + 100):
        body = _prompt(random.Random(seed))
        (tmp_path / "made.prompt.j2").write_text(HEADER + body, encoding="utf-8")
        file = read_prompt(tmp_path, "made")
        found = check_prompt(registry, file, environment).findings
        if any(one.severity == "error" or one.code in TOLD for one in found):
            continue
        silent += 1
        plan = compile_plan(registry, file, environment)
        for values in range(40):
            render(plan, random.Random(values))
    assert silent >= 5
