"""What a budget, sections and a cache break cost per prompt: ``python -m tests.benchmarks.budget``.

`PromptPlan.finish` alone, without a store: the same text with nothing, with a budget, with sections and with a break;
then packing of many sections at three limits, and cutting a long text to a limit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from llmfeatures import Project
from llmfeatures.prompts.budget import pack
from llmfeatures.prompts.runtime import Declared
from llmfeatures.prompts.segments import Segment
from llmfeatures.tokens import tokenizer
from tests.projects import at, make_project

HEAD = "---\ninputs:\n  question: {type: str}\n  note: {type: str}\nBUDGET---\n"
BUDGET = "budget: {max_tokens: 2000, tokenizer: o200k_base}\n"
BODY = """\
{% message "system" %}
You answer questions about a streaming service.
BREAK{% section "help", priority=2 %}
Be friendly and short, and never promise what the service does not have.
{% endsection %}
{% section "notes", priority=1 %}
{{ note }}
{% endsection %}
{% endmessage %}
{% message "user" %}{{ question }}{% endmessage %}
"""


def prompts() -> dict[str, str]:
    """The same text in four ways."""
    whole = BODY.replace("BREAK", "")
    plain = "".join(line for line in whole.splitlines(keepends=True) if "section" not in line)
    return {
        "plain": HEAD.replace("BUDGET", "") + plain,
        "budget": HEAD.replace("BUDGET", BUDGET) + plain,
        "sections": HEAD.replace("BUDGET", BUDGET) + whole,
        "break": HEAD.replace("BUDGET", "") + plain.replace("service.\n", "service.\n{% cache_break %}\n"),
    }


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project.load(make_project(Path(folder), prompts=prompts()))
        for name in prompts():
            plan = project.prompts.plan(name)
            inputs = plan.bind_inputs({"question": "What should I watch?", "note": "word " * 100})
            times: list[float] = []
            for _ in range(3000):
                start = perf_counter()
                plan.finish([], {}, inputs, at())
                times.append(perf_counter() - start)
            print(f"finish, {name:9} p50 {median(times) * 1e6:8.1f} us")
    counter = tokenizer("o200k_base")
    for count in (20, 100, 1000):
        parts: list[Segment] = []
        for number in range(count):
            parts += [Segment("section", "", "s"), Segment("value", f"words of session {number} " * 20 + "\n")]
            parts.append(Segment("section", ""))
        declared = [Declared("s", number % 7, None) for number in range(count)]
        tokens = counter.count("".join(part.text for part in parts))
        for limit in (tokens, tokens // 2, 100):
            start = perf_counter()
            made = pack([("system", tuple(parts))], declared, limit, counter)
            took = perf_counter() - start
            print(
                f"pack, {count:4} sections of {tokens:7,} tokens into {limit:7,}: {made.tokens:7,} {took * 1e3:8.1f} ms"
            )
    long = [Segment("section", "", "s"), Segment("value", "a line of words\n" * 60_000), Segment("section", "")]
    start = perf_counter()
    pack([("system", tuple(long))], [Declared("s", 0, 500)], 1000, counter)
    print(f"cut, a section of 1 MB to 500 tokens: {(perf_counter() - start) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
