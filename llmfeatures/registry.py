"""The registry: all entities and feature views of a project, checked against one another."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from llmfeatures.errors import DefinitionError, LLMFeaturesError, UnknownNameError
from llmfeatures.schema import Definition, Entity, Feature, FeatureView


class Found(NamedTuple):
    """A feature and the view that it belongs to."""

    view: FeatureView
    feature: Feature


class Registry(Definition):
    """Entities and feature views. Entities are found through views, and may be listed too.

    Raises:
        DefinitionError: two things have the same name or the same join keys, or a join key has two dtypes.
    """

    entities: tuple[Entity, ...] = ()
    views: tuple[FeatureView, ...] = ()

    def __init__(self, items: Iterable[FeatureView | Entity] = (), /, **fields: Any) -> None:
        listed = [*items, *fields.pop("entities", ()), *fields.pop("views", ())]
        views: list[FeatureView] = []
        entities: dict[str, Entity] = {}
        for item in listed:
            match item:
                case FeatureView():
                    views.append(item)
                    _add_entity(entities, item.entity)
                case Entity():
                    _add_entity(entities, item)
                case _:
                    raise DefinitionError(f"a registry lists FeatureView and Entity objects, not {type(item).__name__}")
        super().__init__(
            entities=tuple(sorted(entities.values(), key=lambda one: one.name)),
            views=tuple(views),
            **fields,
        )
        _check_views(self.views)
        _check_join_keys(self.entities)

    def entity(self, name: str) -> Entity:
        """The entity of this name.

        Raises:
            UnknownNameError: there is none.
        """
        for entity in self.entities:
            if entity.name == name:
                return entity
        raise UnknownNameError("entity", name, (entity.name for entity in self.entities))

    def view(self, name: str) -> FeatureView:
        """The view of this name.

        Raises:
            UnknownNameError: there is none.
        """
        for view in self.views:
            if view.name == name:
                return view
        raise UnknownNameError("view", name, (view.name for view in self.views))

    def views_of(self, entity: Entity) -> tuple[FeatureView, ...]:
        """The views of an entity, in declared order."""
        return tuple(view for view in self.views if view.entity == entity)

    def features(self) -> Iterator[Found]:
        """Every feature, view by view."""
        for view in self.views:
            for feature in view.features:
                yield Found(view, feature)

    def find(self, reference: str) -> Found:
        """The feature that ``status``, or ``user.status``, names.

        Raises:
            UnknownNameError: there is none.
            DefinitionError: several entities have one of this bare name.
        """
        entity, _, name = reference.rpartition(".")
        found = [one for one in self.features() if one.feature.name == name and entity in ("", one.view.entity.name)]
        if not found:
            known = [one.feature.name for one in self.features()]
            dotted = [f"{one.view.entity.name}.{one.feature.name}" for one in self.features()]
            raise UnknownNameError("feature", reference, dotted if entity else known)
        if len(found) > 1:
            choices = " or ".join(f"{one.view.entity.name}.{name}" for one in found)
            raise DefinitionError(f"feature {name!r} belongs to several entities; write {choices}")
        return found[0]


def schema_hash(view: FeatureView) -> str:
    """A short hash of all that decides what the online store holds for a view; a change of it forces a full run."""
    parts = {
        "keys": [[name, str(dtype)] for name, dtype in view.entity.join_keys.items()],
        "view": view.model_dump(mode="json", include={"name", "source", "ttl"}),
        "features": [[one.name, str(one.dtype), one.column or one.name] for one in view.features],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_registry(path: str | Path, root: Path) -> Registry:
    """The registry in a Python file (its ``registry``), a YAML file, or at ``package.module:attr``.

    Args:
        path: relative to ``root``, which is also importable while the registry loads.

    Raises:
        DefinitionError: it is not there, cannot be loaded, or is wrong.
    """
    written = str(path)
    file = root / written
    if file.suffix in (".yaml", ".yml"):
        return registry_from_yaml(_text_of(file, written))
    if file.suffix == ".py":
        return _registry_of(_load_module(file, written), "registry", written)
    module, colon, attribute = written.partition(":")
    if not colon:
        raise DefinitionError(f"registry {written!r} is no registry; give a .py or .yaml file, or package.module:attr")
    with _importable(root):
        loaded = _guarded(lambda: importlib.import_module(module), written)
    return _registry_of(loaded, attribute, written)


def registry_from_yaml(text: str) -> Registry:
    """A registry from YAML text with ``entities:`` and ``views:``, lists with the same names and keys as in Python.

    Raises:
        DefinitionError: it is no YAML, or a definition in it is wrong.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DefinitionError(f"the registry is no YAML: {error}") from None
    if not isinstance(data, dict):
        raise DefinitionError("a registry in YAML has the keys entities and views, each with a list")
    tables = cast("dict[str, Any]", data)
    unknown = set(tables) - {"entities", "views"}
    if unknown:
        raise DefinitionError(f"a registry in YAML has the keys entities and views, not {', '.join(sorted(unknown))}")
    entities = {entity.name: entity for entity in (_make(Entity, one) for one in _listed(tables, "entities"))}
    views: list[FeatureView] = []
    for one in _listed(tables, "views"):
        options = dict(_mapping(FeatureView, one))
        name = options.get("entity")
        if not isinstance(name, str) or name not in entities:
            raise UnknownNameError("entity", str(name), entities)
        views.append(_make(FeatureView, {**options, "entity": entities[name]}))
    return Registry([*entities.values(), *views])


def _listed(tables: Mapping[str, Any], key: str) -> list[Any]:
    listed = tables.get(key)
    if listed is not None and not isinstance(listed, list):
        raise DefinitionError(f"a registry in YAML has a list of {key}")
    return cast("list[Any]", listed or [])


def _make(kind: type[Any], options: Any) -> Any:
    given = _mapping(kind, options)
    needed = [name for name, one in kind.model_fields.items() if one.is_required() and name in ("source", "features")]
    absent = [name for name in ("name", *needed) if name not in given]
    if absent:
        raise DefinitionError(f"{kind.__name__} {given.get('name', '')!r} needs: {', '.join(absent)}")
    try:
        return kind(**given)
    except TypeError as error:  # an argument that the signature requires
        raise DefinitionError(f"{kind.__name__} {given.get('name', '')!r}: {error}".split("__init__() ")[-1]) from None


def _mapping(kind: type[Any], options: Any) -> Mapping[str, Any]:
    if not isinstance(options, Mapping):
        raise DefinitionError(f"each {kind.__name__} of a registry in YAML is a mapping with a name")
    return cast("Mapping[str, Any]", options)


def _add_entity(entities: dict[str, Entity], entity: Entity) -> None:
    known = entities.setdefault(entity.name, entity)
    if known != entity:
        raise DefinitionError(f"entity {entity.name!r} is defined twice, differently; keep one definition")


def _check_views(views: tuple[FeatureView, ...]) -> None:
    names: set[str] = set()
    owners: dict[tuple[str, str], str] = {}
    for view in views:
        if view.name in names:
            raise DefinitionError(f"view {view.name!r} is defined twice; rename one")
        names.add(view.name)
        for feature in view.features:
            other = owners.setdefault((view.entity.name, feature.name), view.name)
            if other != view.name:
                raise DefinitionError(
                    f"feature {feature.name!r} of entity {view.entity.name!r} is in two views, {other!r} and "
                    f"{view.name!r}; rename one"
                )


def _check_join_keys(entities: tuple[Entity, ...]) -> None:
    owners: dict[frozenset[str], str] = {}
    dtypes: dict[str, tuple[str, str]] = {}
    for entity in entities:
        other = owners.setdefault(frozenset(entity.join_keys), entity.name)
        if other != entity.name:
            raise DefinitionError(
                f"entities {other!r} and {entity.name!r} have the same join keys; use one entity, with a role per "
                "use in the prompt's header, or other join keys"
            )
        for key, dtype in entity.join_keys.items():
            known, owner = dtypes.setdefault(key, (str(dtype), entity.name))
            if known != str(dtype):
                raise DefinitionError(
                    f"join key {key!r} is {known} in entity {owner!r} and {dtype} in {entity.name!r}; use one dtype"
                )


def _text_of(file: Path, written: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise DefinitionError(f"registry {written!r} cannot be read: {error.strerror}") from None


def _load_module(file: Path, written: str) -> Any:
    if not file.is_file():
        raise DefinitionError(f"registry {written!r} is not there; make it, or correct registry in the configuration")
    name = f"llmfeatures_registry_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    sys.modules[name] = module  # dataclasses look their module up there
    with _importable(file.parent):
        _guarded(lambda: loader.exec_module(module), written)
    return module


def _guarded(load: Any, written: str) -> Any:
    try:
        return load()
    except LLMFeaturesError as error:
        raise DefinitionError(f"registry {written}{_line_in(error, written)}: {error}") from error
    except (Exception, SystemExit) as error:
        raise DefinitionError(
            f"registry {written}{_line_in(error, written)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _line_in(error: BaseException, written: str) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f":{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(written)]
    return f":{frames[-1].lineno}" if frames else ""


def _registry_of(module: Any, attribute: str, written: str) -> Registry:
    registry = getattr(module, attribute, None)
    if not isinstance(registry, Registry):
        raise DefinitionError(f"registry {written!r} defines no Registry named {attribute!r}")
    return registry


@contextmanager
def _importable(folder: Path) -> Generator[None, None, None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
