"""What a key may do: scopes, and the one entity that it may be bound to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmfeatures.errors import InvalidValueError
from llmfeatures.problems import refusal
from llmfeatures.refs import Role
from llmfeatures.service.keys import ApiKey, KeyRing
from llmfeatures.types import DType

_SCHEME = b"bearer "


def admit(ring: KeyRing, headers: Sequence[tuple[bytes, bytes]], scope: str | None) -> ApiKey | None:
    """The key of a request, which has the scope (None: any); None when no key is needed.

    Raises:
        ProblemError: 401 without a key that is known, 403 when it lacks the scope.
    """
    if not ring.needed:
        return None
    key = shown(ring, headers)
    if key is None:
        raise refusal("unauthorized", "a valid API key is needed; send it as Authorization: Bearer llf_...")
    if scope is not None and not key.allows(scope):
        raise refusal("forbidden", f"this API key lacks the scope {scope}; make one that has it")
    return key


def shown(ring: KeyRing, headers: Sequence[tuple[bytes, bytes]]) -> ApiKey | None:
    """The known key that the headers of a request show, if any."""
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() != _SCHEME:
                return None
            return ring.find(value[7:].strip().decode("latin-1"))
    return None


def check_roles(key: ApiKey | None, roles: Sequence[Role], given: Mapping[str, Any]) -> None:
    """Refuse what is about an entity that the key is not bound to. ``given`` has the values by parameter name.

    Raises:
        ProblemError: 403.
    """
    if key is None or key.entity is None:
        return
    for role in roles:
        parameters = dict(zip(role.entity.join_keys, role.parameters, strict=True))
        values = {name: given.get(parameter) for name, parameter in parameters.items()}
        check_entity(key, role.entity.join_keys, values)


def check_entity(key: ApiKey | None, join_keys: Mapping[str, DType], values: Mapping[str, Any]) -> None:
    """Refuse an entity that the key is not bound to: one of another value, of none, or of another kind.

    Raises:
        ProblemError: 403.
    """
    if key is None or key.entity is None:
        return
    bound = key.entity
    if not all(name in bound and _same(dtype, bound[name], values.get(name)) for name, dtype in join_keys.items()):
        raise refusal("forbidden", "this API key is bound to another entity; use one for this entity")


def _same(dtype: DType, bound: str | None, value: Any) -> bool:
    if bound is None:
        return True
    if value is None:
        return False
    try:
        return dtype.parse(bound) == dtype.canonical(value)
    except InvalidValueError:
        return False
