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
from types import FunctionType
from typing import Any, NamedTuple, cast

import yaml

from llmfeatures.errors import DefinitionError, LLMFeaturesError, UnknownNameError, did_you_mean
from llmfeatures.ondemand import OnDemandFeature, source_of
from llmfeatures.retriever import DOCUMENT_WORDS, Retriever
from llmfeatures.schema import Definition, Entity, Feature, FeatureView


class Found(NamedTuple):
    """A feature and the view that it belongs to."""

    view: FeatureView
    feature: Feature


class FoundOnDemand(NamedTuple):
    """An on-demand feature, where a name may mean it or a stored one."""

    feature: OnDemandFeature


class Registry(Definition):
    """Entities, feature views, on-demand features and retrievers. Entities are found through the others, and may be
    listed too.

    Raises:
        DefinitionError: two things have the same name or the same join keys, a join key has two dtypes, or a parameter
            of an on-demand feature is nothing that the registry knows.
    """

    entities: tuple[Entity, ...] = ()
    views: tuple[FeatureView, ...] = ()
    on_demand: tuple[OnDemandFeature, ...] = ()
    retrievers: tuple[Retriever, ...] = ()

    def __init__(
        self, items: Iterable[FeatureView | OnDemandFeature | Retriever | Entity] = (), /, **fields: Any
    ) -> None:
        listed = [*items]
        for kind in ("entities", "views", "on_demand", "retrievers"):
            listed += fields.pop(kind, ())
        views: list[FeatureView] = []
        computed: list[OnDemandFeature] = []
        retrievers: list[Retriever] = []
        entities: dict[str, Entity] = {}
        for item in listed:
            match item:
                case FeatureView():
                    views.append(item)
                    _add_entity(entities, item.entity)
                case OnDemandFeature():
                    computed.append(item)
                    _add_entity(entities, item.entity)
                case Retriever():
                    retrievers.append(item)
                    if item.entity is not None:
                        _add_entity(entities, item.entity)
                case Entity():
                    _add_entity(entities, item)
                case _:
                    raise DefinitionError(
                        "a registry lists FeatureView, OnDemandFeature, Retriever and Entity objects, not "
                        f"{type(item).__name__}"
                    )
        super().__init__(
            entities=tuple(sorted(entities.values(), key=lambda one: one.name)),
            views=tuple(views),
            on_demand=tuple(computed),
            retrievers=tuple(retrievers),
            **fields,
        )
        _check_views(self.views)
        _check_retrievers(self)
        _check_on_demand(self)
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

    def retriever(self, name: str) -> Retriever:
        """The retriever of this name.

        Raises:
            UnknownNameError: there is none.
        """
        for retriever in self.retrievers:
            if retriever.name == name:
                return retriever
        raise UnknownNameError("retriever", name, (one.name for one in self.retrievers))

    def brought_by(self, retriever: Retriever) -> tuple[Entity, ...]:
        """The entities whose features a document of this retriever brings, since it carries their join keys."""
        return tuple(entity for entity in self.entities if retriever.brings(entity))

    def views_of(self, entity: Entity) -> tuple[FeatureView, ...]:
        """The views of an entity, in declared order."""
        return tuple(view for view in self.views if view.entity == entity)

    def features(self) -> Iterator[Found]:
        """Every feature, view by view."""
        for view in self.views:
            for feature in view.features:
                yield Found(view, feature)

    def on_demand_of(self, entity: Entity) -> tuple[OnDemandFeature, ...]:
        """The on-demand features of an entity, in declared order."""
        return tuple(one for one in self.on_demand if one.entity == entity)

    def find(self, reference: str) -> Found:
        """The stored feature that ``status``, or ``user.status``, names.

        Raises:
            UnknownNameError: there is none.
            DefinitionError: several entities have one of this bare name, or it is on demand.
        """
        found = self.find_any(reference)
        if isinstance(found, FoundOnDemand):
            raise DefinitionError(
                f"feature {reference!r} is on demand, and a stored feature is needed here; "
                "name one of those that it is computed from"
            )
        return found

    def find_any(self, reference: str) -> Found | FoundOnDemand:
        """The feature, stored or on demand, that ``status``, or ``user.status``, names.

        Raises:
            UnknownNameError: there is none.
            DefinitionError: several entities have one of this bare name.
        """
        entity, _, name = reference.rpartition(".")
        owned: list[tuple[str, Found | FoundOnDemand]] = [
            *((one.view.entity.name, one) for one in self.features()),
            *((one.entity.name, FoundOnDemand(one)) for one in self.on_demand),
        ]
        found = [(owner, one) for owner, one in owned if one.feature.name == name and entity in ("", owner)]
        if not found:
            known = [f"{owner}.{one.feature.name}" if entity else one.feature.name for owner, one in owned]
            raise UnknownNameError("feature", reference, known)
        if len(found) > 1:
            choices = " or ".join(f"{owner}.{name}" for owner, _ in found)
            raise DefinitionError(f"feature {name!r} belongs to several entities; write {choices}")
        return found[0][1]


def schema_hash(view: FeatureView) -> str:
    """A short hash of all that decides what the online store holds for a view; a change of it forces a full run."""
    parts: dict[str, Any] = {
        "keys": [[name, str(dtype)] for name, dtype in view.entity.join_keys.items()],
        "view": view.model_dump(mode="json", include={"name", "source", "ttl"}),
        "features": [[one.name, str(one.dtype), one.column or one.name] for one in view.features],
    }
    if view.aggregates:
        parts["cadence"] = str(view.cadence)
        parts["aggregations"] = [
            [one.name, one.function, str(one.window), one.n, one.column] for one in view.aggregations
        ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_registry(path: str | Path, root: Path) -> Registry:
    """The registry in a Python file (its ``registry``), a YAML file, or at ``package.module:attr``.

    Args:
        path: relative to ``root``, which is also importable while the registry loads.

    Raises:
        DefinitionError: it is not there, cannot be loaded, or is wrong.
    """
    registry = _loaded(str(path), root)
    for one in registry.on_demand:
        source_of(cast("FunctionType", one.function))  # later the file may be another one
    return registry


def _loaded(written: str, root: Path) -> Registry:
    file = root / written
    if file.suffix in (".yaml", ".yml"):
        with _importable(root):
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
    """A registry from YAML text with ``entities:``, ``views:``, ``on_demand:`` and ``retrievers:``, lists with the same
    names and keys as in Python; a ``function`` is ``package.module:attr``.

    Raises:
        DefinitionError: it is no YAML, or a definition in it is wrong.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DefinitionError(f"the registry is no YAML: {error}") from None
    if not isinstance(data, dict):
        raise DefinitionError(f"a registry in YAML has the keys {', '.join(_YAML_KEYS)}, each with a list")
    tables = cast("dict[str, Any]", data)
    unknown = set(tables) - set(_YAML_KEYS)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise DefinitionError(f"a registry in YAML has the keys {', '.join(_YAML_KEYS)}, not {names}")
    entities = {entity.name: entity for entity in (_make(Entity, one) for one in _listed(tables, "entities"))}
    made: list[FeatureView | OnDemandFeature | Retriever] = []
    for kind, key in ((FeatureView, "views"), (OnDemandFeature, "on_demand"), (Retriever, "retrievers")):
        for one in _listed(tables, key):
            options = dict(_mapping(kind, one))
            name = options.get("entity")
            if kind is not Retriever or name is not None:
                if not isinstance(name, str) or name not in entities:
                    raise UnknownNameError("entity", str(name), entities)
                options["entity"] = entities[name]
            if kind is not FeatureView:
                _load_functions(key.removesuffix("s").replace("_", "-"), options)
            made.append(_make(kind, options))
    return Registry([*entities.values(), *made])


_YAML_KEYS = ("entities", "views", "on_demand", "retrievers")


def _load_functions(kind: str, options: dict[str, Any]) -> None:
    """Put functions where they are written, also in an embedder."""
    label = f"{'on-demand feature' if kind == 'on-demand' else kind} {options.get('name', '')!r}"
    if options.get("function") is not None:
        options["function"] = _function(label, options["function"])
    embedder = options.get("embedder")
    if isinstance(embedder, Mapping) and "function" in embedder:
        given = cast("Mapping[str, Any]", embedder)
        options["embedder"] = {**given, "function": _function(f"embedder of {label}", given["function"])}


def _function(label: str, written: Any) -> Any:
    module, colon, attribute = written.partition(":") if isinstance(written, str) else ("", "", "")
    if not (module and colon and attribute):
        raise DefinitionError(f"function of {label} is written package.module:attr")
    loaded = _guarded(lambda: importlib.import_module(module), written)
    if not hasattr(loaded, attribute):
        raise DefinitionError(f"{label}: module {module!r} has no {attribute!r}")
    return getattr(loaded, attribute)


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


def _check_retrievers(registry: Registry) -> None:
    names: set[str] = {view.name for view in registry.views}
    for one in registry.retrievers:
        if one.name in names:
            raise DefinitionError(f"retriever {one.name!r} has the name of a view or of another retriever; rename one")
        names.add(one.name)
        for entity in registry.brought_by(one):
            if entity.name in DOCUMENT_WORDS:
                raise DefinitionError(
                    f"retriever {one.name!r} has documents that bring entity {entity.name!r}, and a document has a "
                    f".{entity.name} of its own; rename the entity, or the metadata that holds its join keys"
                )


def _check_on_demand(registry: Registry) -> None:
    owned = {(one.entity.name, one.name) for one in registry.on_demand}
    seen: set[tuple[str, str]] = set()
    for one in registry.on_demand:
        stored = {feature.name for view in registry.views_of(one.entity) for feature in view.features}
        if one.name in stored or one.name in one.entity.join_keys or (one.entity.name, one.name) in seen:
            raise DefinitionError(
                f"on-demand feature {one.name!r} of entity {one.entity.name!r} has a name that is taken; rename one"
            )
        seen.add((one.entity.name, one.name))
        for name in one.inputs:
            if name in stored:
                raise DefinitionError(
                    f"input {name!r} of on-demand feature {one.name!r} is also a feature; drop the input, or rename it"
                )
        known = stored | set(one.inputs) | set(one.entity.join_keys) | {"as_of"}
        for name in one.parameters:
            if (one.entity.name, name) in owned:
                raise DefinitionError(
                    f"on-demand feature {one.name!r} reads {name!r}, which is on demand too; "
                    "read stored features, and call the function itself"
                )
            if name not in known:
                raise DefinitionError(
                    f"parameter {name!r} of on-demand feature {one.name!r} is no feature, input or join key of "
                    f"entity {one.entity.name!r}{did_you_mean(name, known)}"
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
