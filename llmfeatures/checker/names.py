"""What the names that a prompt reads mean: features, join keys, inputs, entities, ``as_of``. As `compile` finds them,
but with every mistake at once, and with what is known of each value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.documents import document_kinds
from llmfeatures.checker.kinds import ANY, NONE, TIMESTAMP, Kind, Value
from llmfeatures.checker.positions import Source, Span
from llmfeatures.compile_documents import brought_roles
from llmfeatures.errors import InvalidValueError, did_you_mean
from llmfeatures.prompts.file import ABSENT, Policy, PromptFile
from llmfeatures.refs import Role, role_of
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.types import DType

AnyFound = Found | FoundOnDemand
CLOCKS: Final = frozenset(
    {"now", "utcnow", "today", "date_now", "time", "datetime", "strftime_now", "random", "randint", "choice", "uuid"}
    | {"uuid4", "lipsum", "env", "environ", "getenv", "os", "hostname"}
)
"""Names under which templates elsewhere have the clock, chance or the machine."""

Report = Callable[..., None]


class Choice(NamedTuple):
    """A feature of a role."""

    role: Role
    found: AnyFound

    @property
    def name(self) -> str:
        """The feature's own name."""
        return self.found.feature.name

    @property
    def key(self) -> tuple[str, str]:
        """Role and feature."""
        return self.role.name, self.found.feature.name


_last: tuple[Registry, dict[str, dict[str, AnyFound]]] | None = None


def _features(registry: Registry) -> dict[str, dict[str, AnyFound]]:
    """The features of each entity by name; kept for the registry that was asked about last."""
    global _last  # noqa: PLW0603
    if _last is None or _last[0] is not registry:
        made: dict[str, dict[str, AnyFound]] = {}
        for found in registry.features():
            made.setdefault(found.view.entity.name, {})[found.feature.name] = found
        for one in registry.on_demand:
            made.setdefault(one.entity.name, {})[one.name] = FoundOnDemand(one)
        _last = registry, made
    return _last[1]


class Names:
    """The names of one prompt. ``uses`` collects which of them it reads, each with the attributes that it reads of it
    (None for any other use) and the first place of each."""

    def __init__(self, registry: Registry, file: PromptFile, report: Report, suspected: set[str]) -> None:
        self.registry, self.file, self._report, self._suspected = registry, file, report, suspected
        self._of_entity = _features(registry)
        self.roles = self._roles()
        self.parameters = {
            name: (role, dtype)
            for role in self.roles.values()
            for name, dtype in zip(role.parameters, role.entity.join_keys.values(), strict=True)
        }
        self._policies = self._policies_of()
        self._values: dict[str, Value] = {}
        self._heard = True
        self.uses: dict[str, dict[str | None, tuple[Source, nodes.Node]]] = {}
        self.read: dict[str, Choice] = {}
        self._ambiguous: list[str] = []
        self.inputs_read: set[str] = set()
        self.documents = document_kinds(registry, file, role_of)
        self.searching = ""
        """The documents whose query, or filter, is read now."""
        self._brought: dict[tuple[str, str], Choice] = {}
        self._check_distinct()

    # -- reading -----------------------------------------------------------------------------------------------------

    def value(
        self, source: Source, node: nodes.Name, attribute: str | None, holder: nodes.Node, *, heard: bool = True
    ) -> Value | None:
        """What a name is, of which ``holder`` reads an attribute; None for a name that nothing has.

        Read again once it is ``heard``: what is wrong with it is told at its first reading that is.
        """
        name = node.name
        self._heard = heard
        self.uses.setdefault(name, {}).setdefault(attribute, (source, holder))
        apart = bool(self.searching) and name in self.documents
        if not apart and (known := self._values.get(name)) is not None:
            return known
        made = self._value(source, node, attribute, holder)
        if heard and made is not None and not apart and not (name in self.roles and name not in self.read):
            self._values[name] = made
        return made

    def _value(self, source: Source, node: nodes.Name, attribute: str | None, holder: nodes.Node) -> Value | None:
        name = node.name
        if name == "as_of":
            return Value((TIMESTAMP,), (name,), dynamic=True, moment=True)
        declared = self.file.header.inputs.get(name)
        if declared is not None:
            self.inputs_read.add(name)
            kind = kinds.kind_of(declared.dtype)
            return Value((kind, NONE) if declared.default is None else (kind,), (name,), dynamic=True)
        if name in self.file.header.entities and name not in self.roles:
            return ANY  # its entity is not there, which is told already
        if name in self.documents:
            return self._documents(source, node)
        choices = self.choices(name)
        if choices and name in self.parameters:
            self._report(
                "LF019",
                source,
                node,
                f"{name!r} is both a feature and a join key here; write the feature as {choices[0].role.name}.{name}",
            )
            return ANY
        if name in self.roles:
            return ANY if choices else self._entity(source, node, attribute, holder)
        if name in self.parameters:
            return Value((kinds.kind_of(self.parameters[name][1]),), (name,), dynamic=True, lenient=True)
        if len(choices) == 1:
            self.read[name] = choices[0]
            return self._feature(choices[0], (name,), source, node)
        if choices:
            self._ambiguous.append(name)
            return kinds.joined(*[self._feature(one, (name,), None, node) for one in choices])
        return None

    def _documents(self, source: Source, node: nodes.Name) -> Value:
        name = node.name
        if self.searching:
            self._report(
                "LF010", source, node, f"{name!r} are documents, which nothing is searched by", help="documents are "
                "read by the body of the prompt", span=source.of(node),
            )  # fmt: skip
            return ANY
        return Value((kinds.listed(kinds.of(self.documents[name])),), (name,), dynamic=True)

    def brought(self, role: Role, attribute: str, source: Source, node: nodes.Node) -> Value | None:
        """A feature of an entity that a document brings; None where the entity has none of this name."""
        found = self._of_entity.get(role.entity.name, {}).get(attribute)
        if found is None:
            return None
        choice = Choice(role, found)
        self._brought[choice.key] = choice
        return self._feature(choice, (role.name, attribute), source, node)._replace(path=None)

    def features_of(self, entity: str) -> list[str]:
        """The features of an entity, by name."""
        return sorted(self._of_entity.get(entity, {}))

    def _entity(self, source: Source, node: nodes.Name, attribute: str | None, holder: nodes.Node) -> Value:
        role = self.roles[node.name]
        known = self._of_entity.get(role.entity.name, {})
        if attribute is None:
            named = next(iter(sorted(known)), "FEATURE")
            self._report(
                "LF019",
                source,
                node,
                f"{node.name!r} is an entity: write {node.name}.FEATURE where you use it, with the feature's own name",
                help=f"write {node.name}.{named}, or another of its features",
            )
            return ANY
        dotted = f"{node.name}.{attribute}"
        found = known.get(attribute)
        if found is None:
            self._report(
                "LF015",
                source,
                holder,
                f"entity {role.entity.name!r} has no feature {attribute!r}{did_you_mean(attribute, known)}",
                span=source.name_of(holder),
                close=(attribute, known),
            )
            return ANY
        choice = Choice(role, found)
        self.read[dotted] = choice
        if (value := self._values.get(dotted)) is None:
            value = self._feature(choice, (node.name, attribute), source, holder)
            if self._heard:
                self._values[dotted] = value
        return value

    def _feature(self, choice: Choice, path: tuple[str, ...], source: Source | None, node: nodes.Node) -> Value:
        policy = self._policies.get(choice.key)
        undecided = policy is None or not self._decided(policy[0], policy[1])
        if source is not None and undecided and choice.name not in self._suspected:
            name = ".".join(path)
            self._report(
                "LF023",
                source,
                node,
                f"feature {name!r} has no policy: an entity without it gets an error instead of a prompt",
                help=f"under features: in the header give {name}: {{default: VALUE}}, or {{on_missing: none}} with a "
                "guard, or {on_missing: error} where that is meant",
                once=("LF023", choice.key),
            )
        dtype = choice.found.feature.dtype
        kind = kinds.kind_of(dtype)
        union: tuple[Kind, ...] = (kind,)
        if policy is not None:
            default = policy[1].default
            if default is not ABSENT and dtype.kind == "enum" and isinstance(default, str):
                union = (kinds.enum((*dtype.words, default)),)
            if policy[1].on_missing == "none":
                union = (kind, NONE)
        text = dtype.kind in ("str", "json") or (dtype.kind == "list" and dtype.item == DType("str"))
        name = ".".join(path)
        return Value(union, path, name if text else "", frozenset({".".join(choice.key)}), dynamic=True)

    def _decided(self, name: str, policy: Policy) -> bool:
        written = self.file.positions
        return (
            policy.default is not ABSENT
            or policy.on_missing == "none"
            or ("features", name, "on_missing") in written
        )  # fmt: skip

    def choices(self, name: str) -> list[Choice]:
        """The roles that have a feature of this bare name."""
        return [
            Choice(role, found)
            for role in self.roles.values()
            if (found := self._of_entity.get(role.entity.name, {}).get(name)) is not None
        ]

    def known(self) -> list[str]:
        """Every name that a template of this prompt can read."""
        features = [name for role in self.roles.values() for name in self._of_entity.get(role.entity.name, {})]
        header = self.file.header
        return [*header.inputs, *header.documents, *self.parameters, *self.roles, "as_of", *features]

    # -- the header --------------------------------------------------------------------------------------------------

    def header(self, code: str, message: str, *keys: str, **options: object) -> None:
        """Report something at a place in the header."""
        if len(keys) > 2 and (place := self.file.values.get(keys)) is not None:  # an option's value
            span = Span(*place)
        else:
            line, col = self.file.positions.get(keys, (None, None))
            width = len(keys[-1]) if keys else 0
            span = Span(line, col, line, None if col is None else col + width)
        self._report(code, Source(self.file.path, ""), None, message, span=span, **options)

    def _roles(self) -> dict[str, Role]:
        declared = self.file.header.entities
        if not declared:
            return {entity.name: role_of(entity.name, entity) for entity in self.registry.entities}
        entities = {entity.name: entity for entity in self.registry.entities}
        roles: dict[str, Role] = {}
        for name, entity in declared.items():
            if entity in entities:
                roles[name] = role_of(name, entities[entity])
            else:
                self.header("LF002", f"unknown entity {entity!r}{did_you_mean(entity, entities)}", "entities", name)
        return roles

    def _named(self, name: str) -> list[Choice]:
        role, _, feature = name.rpartition(".")
        return [one for one in self.choices(feature) if role in ("", one.role.name)] or [
            Choice(one, found)
            for one in brought_roles(self.registry, self.file, self.roles)
            if role in ("", one.name) and (found := self._of_entity.get(one.entity.name, {}).get(feature)) is not None
        ]

    def _policies_of(self) -> dict[tuple[str, str], tuple[str, Policy]]:
        found: dict[tuple[str, str], tuple[str, Policy]] = {}
        for name, policy in self.file.header.features.items():
            named = self._named(name)
            if not named:
                every = [one for role in self.roles.values() for one in self._of_entity.get(role.entity.name, {})]
                known = list(dict.fromkeys(every))
                said = f"unknown feature {name!r}{did_you_mean(name, known)}"
                self.header("LF002", said, "features", name, close=(name, known))
            for one in named:
                found.setdefault(one.key, (name, policy))
        return found

    def _check_distinct(self) -> None:
        header = self.file.header
        named = [("inputs", "input", name) for name in header.inputs]
        named += [("documents", "documents", name) for name in header.documents]
        for section, kind, name in named:
            taken = (
                "a join key" if name in self.parameters
                else "an entity" if name in self.roles
                else "an input" if kind == "documents" and name in header.inputs
                else "a feature" if self.choices(name)
                else None
            )  # fmt: skip
            if taken:
                said = f"{kind} {name!r} is also {taken} of this prompt; rename the {kind}"
                self.header("LF019", said, section, name)
        for name in self.file.header.entities:
            if name in self.parameters or self.choices(name):
                self.header("LF019", f"role {name!r} is also a join key or feature; rename it", "entities", name)

    # -- when all was read -------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Report what only the whole of a prompt shows."""
        self._resolve_roles()
        self._resolve_ambiguous()
        self._check_doubles()
        self._check_policies()
        self._check_used()
        self._check_inputs()

    def _resolve_roles(self) -> None:
        """A name that is a role's, and some role's feature too, is the role where only its attributes are read."""
        for name, attributes in self.uses.items():
            if name not in self.roles or name in self.parameters or name in self.file.header.inputs:
                continue
            choices = self.choices(name)
            if not choices:
                continue
            if None not in attributes:
                for attribute, (source, node) in attributes.items():
                    self._entity(source, cast("nodes.Name", _base(node)), attribute, node)
            elif len(choices) == 1:
                self.read[name] = choices[0]
            else:
                self._ambiguous.append(name)

    def _resolve_ambiguous(self) -> None:
        certain = {one.role.name for one in self.read.values()} | {role.name for role in self._printed_roles()}
        for name in self._ambiguous:
            choices = self.choices(name)
            left = [one for one in choices if one.role.name in certain]
            if len(left) == 1:
                self.read[name] = left[0]
                continue
            written = " or ".join(f"{one.role.name}.{name}" for one in choices)
            source, node = next(iter(self.uses[name].values()))
            self._report(
                "LF019",
                source,
                _base(node),
                f"feature {name!r} belongs to several entities of this prompt; write {written}",
            )

    def _printed_roles(self) -> list[Role]:
        named = {name for one in self.read.values() for name in one.role.parameters}
        return [
            min((role for role in self.roles.values() if name in role.parameters), key=lambda one: len(one.parameters))
            for name in self.uses
            if name in self.parameters and name not in self.file.header.inputs and name not in named
        ]

    def _check_doubles(self) -> None:
        bare = {one.key for name, one in self.read.items() if "." not in name}
        for name, one in self.read.items():
            if "." in name and one.key in bare:
                self._report(
                    "LF019", *self._place(name), f"write {one.name!r} or {name!r} in a prompt, not both"
                )  # fmt: skip

    def _place(self, name: str) -> tuple[Source, nodes.Node]:
        bare, _, attribute = name.partition(".")
        uses = self.uses[bare]
        return uses[attribute] if attribute and attribute in uses else next(iter(uses.values()))

    def _check_policies(self) -> None:
        read = set(self._read_keys())
        taken: set[tuple[str, str]] = set()
        for name, policy in self.file.header.features.items():
            named = self._named(name)
            used = [one for one in named if one.key in read]
            for one in used or named[:1]:
                if one.key in taken:
                    self.header("LF002", f"{name}: the feature has a policy already", "features", name)
                taken.add(one.key)
                self._check_default(name, policy, one)
            if named and not used and named[0].name not in self._suspected:
                self.header(
                    "LF060",
                    f"feature {name!r} has a policy, and the template never reads it; remove the policy",
                    "features",
                    name,
                )

    def _check_default(self, name: str, policy: Policy, choice: Choice) -> None:
        if policy.default is ABSENT:
            return
        dtype = choice.found.feature.dtype
        try:
            (DType("str") if dtype.kind == "enum" else dtype).canonical(policy.default)
        except InvalidValueError as error:
            self.header(
                "LF002",
                f"{name}: the default does not fit: {error}{self.file.reading('features', name, 'default')}",
                "features",
                name,
                "default",
            )

    def _read_keys(self) -> Iterator[tuple[str, str]]:
        for one in (*self.read.values(), *self._brought.values()):
            yield one.key
            if isinstance(one.found, FoundOnDemand):
                for parameter in one.found.feature.parameters:
                    yield one.role.name, parameter

    def _check_used(self) -> None:
        taken: dict[str, str] = dict.fromkeys(self.file.header.inputs, "an input")
        roles = {one.role.name: one.role for one in self.read.values()}
        roles |= {role.name: role for role in self._printed_roles()}
        owners: dict[str, tuple[str, str]] = {}
        for role in roles.values():
            for parameter, key in zip(role.parameters, role.entity.join_keys, strict=True):
                meaning = (key, role.name if parameter != key else "")
                if owners.setdefault(parameter, meaning) != meaning:
                    self.header(
                        "LF019", f"two roles both take their join key as {parameter!r}; rename a role", "entities"
                    )
                taken[parameter] = "a join key"
        for name, one in self.read.items():
            bare, kind = (one.role.name, "an entity") if "." in name else (name, "a feature")
            if taken.setdefault(bare, kind) != kind:
                self._report(
                    "LF019",
                    *self._place(name),
                    f"{bare!r} is {taken[bare]} and {kind} of this prompt; declare the entity under another "
                    f"name in the header, like entities: {{viewer: {one.role.entity.name}}}, and write "
                    f"viewer.{one.name}",
                )

    def _check_inputs(self) -> None:
        """What on-demand features take from the caller has one meaning too."""
        declared = {name: one.dtype for name, one in self.file.header.inputs.items()}
        roles = [*[one.role for one in self.read.values()], *self._printed_roles()]
        parameters = {name for role in roles for name in role.parameters}
        printed = {name.partition(".")[0] for name in self.read}
        for one in self.read.values():
            if not isinstance(one.found, FoundOnDemand):
                continue
            for name, dtype in one.found.feature.inputs.items():
                self.inputs_read.add(name)
                if name in parameters or name in printed or name == "as_of":
                    self.header(
                        "LF019",
                        f"input {name!r} of on-demand feature {one.name!r} is also a join key, feature or entity of "
                        "this prompt; rename the input",
                        "inputs",
                    )
                elif declared.setdefault(name, dtype) != dtype:
                    self.header(
                        "LF019",
                        f"input {name!r} is {declared[name]}, and on-demand feature {one.name!r} takes it as {dtype}; "
                        "use one dtype",
                        "inputs",
                        name,
                    )

    def features(self) -> frozenset[str]:
        """``entity.feature`` of all that is read, with what on-demand features are computed from."""
        found: set[str] = set()
        for one in (*self.read.values(), *self._brought.values()):
            entity = one.role.entity.name
            stored = self._of_entity.get(entity, {})
            found.add(f"{entity}.{one.name}")
            if isinstance(one.found, FoundOnDemand):
                found |= {f"{entity}.{name}" for name in one.found.feature.parameters if name in stored}
        return frozenset(found)


def _base(node: nodes.Node) -> nodes.Node:
    """The name of which an expression reads an attribute."""
    return node.node if isinstance(node, (nodes.Getattr, nodes.Getitem)) else node
