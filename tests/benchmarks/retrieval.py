"""What reading features and documents together takes beside the slower of the two: ``python -m
tests.benchmarks.retrieval``.

The online store, a Redis, is slowed by one delay and a retriever (a function) by another; both sleep, so that they
could go on at the same time on one core. Each round reads, in turns, the features alone, the documents alone, and both,
by what `build_context` reads with; then it builds three prompts: with the features, with the documents, and with both.
These have the rendering too, which nothing goes on beside. The last row has no delays.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from llmfeatures import Project, Retriever
from llmfeatures.ports import DocumentQuery
from tests.retrieval.online_project import NOW, USER, document, make_project
from tests.servers import redis_server

ROUNDS, CALLS = 5, 60
DELAYS = ((0.002, 0.002), (0.005, 0.001), (0.001, 0.005), (0.010, 0.010), (0.0, 0.0))
ALLOWED = 0.0002
FEATURES = "features: {genre: {default: nothing}}\n"
DOCUMENTS = 'inputs: {question: str}\ndocuments: {docs: {retriever: sessions, query: "{{ question }}", top_k: 3}}\n'
LOOP = "{% for d in docs %}{{ d.text }}\n{% endfor %}"
PROMPTS = {
    "features": f"---\n{FEATURES}---\n{{{{ genre }}}}",
    "documents": f"---\n{DOCUMENTS}---\nx {LOOP}",
    "both": f"---\n{FEATURES}{DOCUMENTS}---\n{{{{ genre }}}} {LOOP}",
}


class Slowed:
    """Projects whose store and retriever take as long as they are told to."""

    def __init__(self, folder: Path, url: str) -> None:
        self.store, self.retriever = 0.0, 0.0
        texts = [f"{number} " * 20 for number in range(3)]
        found = [document(str(number), text, score=1 / (number + 1)) for number, text in enumerate(texts)]

        def find(_: DocumentQuery) -> Any:
            if self.retriever:
                time.sleep(self.retriever)
            return found

        async def find_async(_: DocumentQuery) -> Any:
            if self.retriever:
                await self.slept(self.retriever)
            return found

        self.sleeping = ThreadPoolExecutor(4)

        online = f'\n[online]\nurl = "{url}"\nnamespace = '
        self.threads = make_project(
            folder / "sync", Retriever("sessions", USER, function=find), prompts=PROMPTS, config=f'{online}"sync"\n'
        )
        self.loops = make_project(
            folder / "async",
            Retriever("sessions", USER, function=find_async),
            prompts=PROMPTS,
            config=f'{online}"async"\n',
        )
        for project in self.projects:
            project.materialize(["taste", "ratings"])

    async def slept(self, seconds: float) -> None:
        """Sleep as long as `time.sleep` does; an event loop's own timers are up to a millisecond late."""
        await asyncio.get_running_loop().run_in_executor(self.sleeping, time.sleep, seconds)

    @property
    def projects(self) -> tuple[Project, Project]:
        """The one for threads and the one for asyncio."""
        return self.threads, self.loops

    def builder(self) -> Any:
        """A builder whose store sleeps."""
        builder = self.threads.builder()
        read = builder._store.store.read

        def slow(*args: Any, **options: Any) -> Any:
            if self.store:
                time.sleep(self.store)
            return read(*args, **options)

        builder._store.store.read = slow  # type: ignore[method-assign]
        return builder

    def async_builder(self) -> Any:
        """A builder for asyncio whose store sleeps."""
        builder = self.loops.async_builder()
        read = builder._store.store.read

        async def slow(*args: Any, **options: Any) -> Any:
            if self.store:
                await self.slept(self.store)
            return await read(*args, **options)

        builder._store.store.read = slow  # type: ignore[method-assign]
        return builder

    def take(self, store: float, retriever: float) -> None:
        """Set the delays."""
        self.store, self.retriever = store, retriever


def given(kind: str) -> dict[str, Any]:
    """What a prompt takes."""
    return {"user_id": "u", **({} if kind == "features" else {"question": "q"})}


async def measured(builder: Any) -> dict[str, float]:
    """The median of each, in turns. ``builder`` is of the one kind or the other."""
    times: dict[str, list[float]] = {f"{what} {kind}": [] for what in ("read", "build") for kind in PROMPTS}
    plans = {kind: builder.plan(kind) for kind in PROMPTS}
    for _ in range(CALLS):
        for what in ("read", "build"):
            for kind, plan in plans.items():
                start = perf_counter()
                if what == "build":
                    made = builder.build_context(kind, **given(kind))
                else:
                    made = builder._gatherer.run(plan, [plan.bind(given(kind))], NOW, None)
                if asyncio.iscoroutine(made):
                    await made
                times[f"{what} {kind}"].append(perf_counter() - start)
    return {name: median(found) for name, found in times.items()}


def shown(way: str, delays: tuple[float, float], rounds: list[dict[str, float]]) -> float:
    """Print a row for what is read and one for what is built; how much longer reading both took than the slower."""
    over: dict[str, list[float]] = {}
    for what in ("read", "build"):
        middle = {kind: median(one[f"{what} {kind}"] for one in rounds) * 1e3 for kind in PROMPTS}
        over[what] = [one[f"{what} both"] - max(one[f"{what} features"], one[f"{what} documents"]) for one in rounds]
        print(
            f"{way:5} {delays[0] * 1e3:3.0f} and {delays[1] * 1e3:3.0f} ms, {what:5}: "
            f"features {middle['features']:7.3f} documents {middle['documents']:7.3f} both {middle['both']:7.3f} ms = "
            f"{middle['both'] / max(middle['features'], middle['documents']):.3f} x the slower, more by "
            f"{' '.join(f'{one * 1e6:.0f}' for one in over[what])} us"
        )
    return median(over["read"])


async def run(slowed: Slowed, way: str) -> bool:
    """The rows of each pair of delays; whether reading both kept to what is allowed."""
    builder = slowed.builder() if way == "sync" else slowed.async_builder()
    kept = True
    for delays in DELAYS:
        slowed.take(*delays)
        rounds = [await measured(builder) for _ in range(ROUNDS + 1)]
        kept = shown(way, delays, rounds[1:]) <= ALLOWED and kept
    if way == "async":
        await builder.aclose()
    return kept


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as url:
        slowed = Slowed(Path(folder), url)
        kept = [asyncio.run(run(slowed, way)) for way in ("sync", "async")]
        for project in slowed.projects:
            project.close()
    print(f"features and documents together take at most the slower leg + 0.2 ms: {'yes' if all(kept) else 'NO'}")


if __name__ == "__main__":
    main()
