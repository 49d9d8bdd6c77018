"""What is other in a registry than in an earlier one, change by change, each with the features that it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from llmfeatures.errors import DefinitionError
from llmfeatures.types import parse_dtype

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryChange:
    """A change of the registry. ``features`` are those that it touches, as ``entity.feature``; ``word`` is an enum's
    word that was removed."""

    said: str
    features: tuple[str, ...]
    word: str | None = None


def registry_changes(old: Json, new: Json) -> list[RegistryChange]:
    """The changes between two registries, as JSON."""
    return [*_entities(old, new), *_features(old, new), *_views(old, new), *_functions(old, new)]


def _entities(old: Json, new: Json) -> Iterator[RegistryChange]:
    before, after = ({one["name"]: one for one in side["entities"]} for side in (old, new))
    for name in sorted({*before, *after}):
        touched = tuple(key for key in {**_found(old), **_found(new)} if key.partition(".")[0] == name)
        if name not in after or name not in before:
            said = f"entity {name} {'removed' if name not in after else 'added'}"
            yield RegistryChange(said=said, features=touched if name not in after else ())
        elif before[name]["join_keys"] != after[name]["join_keys"]:
            keys = [
                ", ".join(f"{key} {dtype}" for key, dtype in one[name]["join_keys"].items()) for one in (before, after)
            ]
            yield RegistryChange(said=f"join keys of entity {name}: {keys[0]} -> {keys[1]}", features=touched)


def _found(registry: Json) -> dict[str, tuple[Json, Json]]:
    """Each stored feature by ``entity.feature``, with its view."""
    return {f"{view['entity']}.{one['name']}": (view, one) for view in registry["views"] for one in view["features"]}


def _features(old: Json, new: Json) -> Iterator[RegistryChange]:
    before, after = _found(old), _found(new)
    added = [name for name in after if name not in before]
    for name in (one for one in before if one not in after):
        renamed = [one for one in added if _same_column(before[name], after[one])]
        if len(renamed) == 1:
            added.remove(renamed[0])
            yield RegistryChange(said=f"feature {name} renamed to {renamed[0]}", features=(name, renamed[0]))
        else:
            yield RegistryChange(said=f"feature {name} removed", features=(name,))
    for name in added:
        yield RegistryChange(said=f"feature {name} added, {after[name][1].get('dtype')}", features=())
    for name in (one for one in after if one in before):
        yield from _feature(name, before[name], after[name])


def _same_column(old: tuple[Json, Json], new: tuple[Json, Json]) -> bool:
    """Whether a feature has the other's place: the same column of the same view."""
    (view, feature), (other_view, other) = old, new
    column = feature.get("column") or feature["name"]
    return view["name"] == other_view["name"] and column == (other.get("column") or other["name"])


def _feature(name: str, old: tuple[Json, Json], new: tuple[Json, Json]) -> Iterator[RegistryChange]:
    (view, before), (other_view, after) = old, new
    if view["name"] != other_view["name"]:
        said = f"feature {name} moved from view {view['name']} to {other_view['name']}"
        yield RegistryChange(said=said, features=(name,))
    if before.get("dtype") != after.get("dtype"):
        yield from _dtype(name, str(before.get("dtype")), str(after.get("dtype")))
    for key in sorted({*before, *after} - {"name", "dtype", "description", "tags"}):
        if before.get(key) != after.get(key):
            said = f"{key} of {name}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
            yield RegistryChange(said=said, features=(name,))


def _dtype(name: str, old: str, new: str) -> Iterator[RegistryChange]:
    try:
        before, after = parse_dtype(old), parse_dtype(new)
    except DefinitionError:
        before = after = None
    if before is None or after is None or before.kind != "enum" or after.kind != "enum":
        yield RegistryChange(said=f"dtype of {name}: {old} -> {new}", features=(name,))
        return
    for word in before.words:
        if word not in after.words:
            yield RegistryChange(said=f"enum value {word!r} of {name} removed", features=(name,), word=word)
    for word in after.words:
        if word not in before.words:
            yield RegistryChange(said=f"enum value {word!r} of {name} added", features=(name,))


def _views(old: Json, new: Json) -> Iterator[RegistryChange]:
    before, after = ({one["name"]: one for one in side["views"]} for side in (old, new))
    for name in (one for one in after if one in before):
        touched = tuple(f"{after[name]['entity']}.{one['name']}" for one in after[name]["features"])
        aggregates = any("window" in one for one in after[name]["features"])
        for key in ("entity", "ttl", "source", *(("cadence",) if aggregates else ())):
            if before[name].get(key) != after[name].get(key):
                said = f"{key} of view {name}: {_shown(before[name].get(key))} -> {_shown(after[name].get(key))}"
                yield RegistryChange(said=said, features=touched)


def _functions(old: Json, new: Json) -> Iterator[RegistryChange]:
    before, after = ({f"{one['entity']}.{one['name']}": one for one in side["on_demand"]} for side in (old, new))
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            said = f"on-demand feature {name} {'added' if name not in before else 'removed'}"
            yield RegistryChange(said=said, features=() if name not in before else (name,))
            continue
        was, now = before[name], after[name]
        if was["dtype"] != now["dtype"]:
            yield from _dtype(name, was["dtype"], now["dtype"])
        if was["code_hash"] != now["code_hash"]:
            yield RegistryChange(said=f"the function of on-demand feature {name} has other code", features=(name,))
        if was["inputs"] != now["inputs"]:
            said = f"inputs of on-demand feature {name}: {_shown(was['inputs'])} -> {_shown(now['inputs'])}"
            yield RegistryChange(said=said, features=(name,))


def _shown(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return "none"
    if isinstance(value, Mapping):
        held = cast("Json", value)
        return ", ".join(f"{key} {_shown(one)}" for key, one in held.items() if one not in (None, {}, "")) or "none"
    return str(value)
