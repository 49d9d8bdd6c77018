"""What is other in a release than in the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from llmfeatures.releases.content import Release

Kind = Literal["added", "removed", "changed", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChange:
    """A prompt that is other. ``text``: its file is, and what it renders is not. Versions are None where it is not."""

    prompt: str
    kind: Kind
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is other in a release than in the one before: prompts, a sentence for each definition of the registry, and
    the version of llmfeatures, old and new."""

    prompts: tuple[PromptChange, ...] = ()
    registry: tuple[str, ...] = ()
    library: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.prompts or self.registry or self.library)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "prompts": [asdict(one) for one in self.prompts],
            "registry": list(self.registry),
            "library": None if self.library is None else {"old": self.library[0], "new": self.library[1]},
        }


def changes(old: Release | None, new: Release) -> Changes:
    """What is other in ``new`` than in ``old``; without an old one, all of it is added."""
    if old is None:
        added = [
            PromptChange(prompt=one.name, kind="added", old=None, new=one.version)
            for _, one in sorted(new.prompts.items())
        ]
        return Changes(prompts=tuple(added), registry=tuple(_registry({}, new.registry)))
    return Changes(
        prompts=tuple(_prompts(old, new)),
        registry=tuple(_registry(old.registry, new.registry)),
        library=None if old.library == new.library else (old.library, new.library),
    )


def _prompts(old: Release, new: Release) -> Iterator[PromptChange]:
    for name in sorted({*old.prompts, *new.prompts}):
        before, after = old.prompts.get(name), new.prompts.get(name)
        versions: dict[str, Any] = {"old": before and before.version, "new": after and after.version}
        if before is None or after is None:
            yield PromptChange(prompt=name, kind="removed" if after is None else "added", **versions)
        elif before.version != after.version:
            yield PromptChange(prompt=name, kind="changed", **versions)
        elif before != after:
            yield PromptChange(prompt=name, kind="text", **versions)


def _registry(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _listed("entity", old.get("entities", []), new["entities"])
    yield from _views(old.get("views", []), new["views"])
    yield from _listed("on-demand feature", old.get("on_demand", []), new["on_demand"])
    yield from _listed("retriever", old.get("retrievers", []), new.get("retrievers", []))


def _listed(kind: str, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    befores, afters = _by_name(old), _by_name(new)
    for name in [*afters, *(one for one in befores if one not in afters)]:
        before, after = befores.get(name), afters.get(name)
        if before is None or after is None:
            yield f"{kind} {name} {'removed' if after is None else 'added'}"
            continue
        yield from (f"{kind} {name}: {said}" for said in _options(before, after))


def _views(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    befores, afters = _by_name(old), _by_name(new)
    for name in [*afters, *(one for one in befores if one not in afters)]:
        before, after = befores.get(name), afters.get(name)
        if before is None or after is None:
            yield f"view {name} {'removed' if after is None else 'added'}"
            continue
        own = [{key: value for key, value in one.items() if key != "features"} for one in (before, after)]
        yield from (f"view {name}: {said}" for said in _options(*own))
        yield from (f"view {name}: {said}" for said in _listed("feature", before["features"], after["features"]))


def _options(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in [*after, *(one for one in before if one not in after)]:
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        if key in ("code_hash", "function"):
            yield "its function has other code"
        elif key == "function_source":  # its code says it
            continue
        elif key == "embedder":
            yield f"embedder {_shown(_without_code(was))} → {_shown(_without_code(now))}"
        elif key != "source":
            yield f"{key} {_shown(was)} → {_shown(now)}"
        elif "code_hash" not in after:  # a function's may differ by its comments only
            yield "its source is another"  # a query is long, and may hold what is not for a log


def _without_code(embedder: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if embedder is None:
        return None
    return {key: value for key, value in embedder.items() if key != "function_source"}


def _by_name(listed: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    # two entities may have features of one name
    return {f"{one['entity']}.{one['name']}" if "code_hash" in one else str(one["name"]): one for one in listed}


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, Mapping):
        options = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in options.items() if one not in (None, {})) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(": ".join(map(str, one)) for one in cast("list[Any]", value)) + "]"
    return str(value)
