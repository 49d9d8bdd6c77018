"""Whose a session is: what its join keys are bound to before anybody says anything. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmfeatures.errors import InvalidValueError, RequestError, UnknownNameError
from llmfeatures.problems import refusal
from llmfeatures.refs import Role
from llmfeatures.registry import Registry
from llmfeatures.service.keys import ApiKey
from llmfeatures.types import DType


class Keys(NamedTuple):
    """The join keys of roles by parameter name: ``bound`` to canonical values, ``open`` to any that a call names, or
    ``absent``: neither."""

    bound: Mapping[str, Any]
    open: Mapping[str, DType]
    absent: Mapping[str, DType]


@dataclass(frozen=True, slots=True)
class Binding:
    """What join keys are bound to, by name: ``values`` (canonical) that no call can change, and those in ``open``, of
    which a call may name any. ``closed``: nothing else may be named, as of an API key that is bound to an entity."""

    values: tuple[tuple[str, Any], ...] = ()
    open: frozenset[str] = frozenset()
    closed: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The join keys that have a value."""
        return frozenset(name for name, _ in self.values)

    def keys(self, roles: Iterable[Role]) -> Keys:
        """The join keys of roles as they are bound."""
        values = dict(self.values)
        bound: dict[str, Any] = {}
        opened: dict[str, DType] = {}
        absent: dict[str, DType] = {}
        for role in roles:
            for parameter, (name, dtype) in zip(role.parameters, role.entity.join_keys.items(), strict=True):
                if name in values:
                    bound[parameter] = values[name]
                elif name in self.open:
                    opened[parameter] = dtype
                else:
                    absent[parameter] = dtype
        return Keys(bound, opened, absent)

    def of_key(self, key: ApiKey | None, registry: Registry) -> Binding:
        """This binding together with the one of an API key.

        Raises:
            ProblemError: 403, they have nothing in common.
        """
        if key is None or key.entity is None:
            return self
        dtypes, values, opened = join_keys(registry), dict(self.values), set[str](self.open)
        for name, written in key.entity.items():
            if name not in dtypes:
                continue
            if written is None:
                if name not in values:
                    opened.add(name)
                continue
            value = _parsed(dtypes[name], written)
            if value is None or values.setdefault(name, value) != value:
                raise refusal("forbidden", "this API key is bound to another entity than this server; use another one")
            opened.discard(name)
        return Binding(
            tuple((name, value) for name, value in values.items() if name in key.entity),
            frozenset(name for name in opened if name in key.entity),
            closed=True,
        )


def join_keys(registry: Registry) -> dict[str, DType]:
    """The dtype of each join key of a registry."""
    return {name: dtype for one in registry.entities for name, dtype in one.join_keys.items()}


def binding_of(registry: Registry, bound: Sequence[str], opened: Sequence[str]) -> Binding:
    """The binding that options name: ``KEY=VALUE`` words, and keys of which any value may be named.

    Raises:
        RequestError: a word is no ``KEY=VALUE``, a value is blank or does not fit, or a key is named twice.
        UnknownNameError: there is no such join key.
    """
    dtypes, values = join_keys(registry), dict[str, Any]()
    for word in bound:
        name, equals, written = word.partition("=")
        if not equals:
            raise RequestError(f"--bind takes KEY=VALUE, like --bind user_id=8a2f, not {word!r}")
        if name not in dtypes:
            raise UnknownNameError("join key", name, dtypes)
        if not written.strip():
            # mostly a variable of the shell that is not set: all would be asked of a user who is nobody
            raise RequestError(f"--bind {name}= has no value; give one, like --bind {name}=8a2f")
        if name in values:
            raise RequestError(f"{name} is bound twice; bind it once")
        try:
            values[name] = dtypes[name].parse(written)
        except InvalidValueError as error:
            raise RequestError(f"{name} is of type {dtypes[name]}: {error}") from None
    for name in opened:
        if name not in dtypes:
            raise UnknownNameError("join key", name, dtypes)
        if name in values:
            raise RequestError(f"{name} is bound, so calls cannot name it; leave --bind or --any out")
    return Binding(tuple(values.items()), frozenset(opened))


def _parsed(dtype: DType, written: str) -> Any:
    try:
        return dtype.parse(written)
    except InvalidValueError:
        return None
