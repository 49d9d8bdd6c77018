"""What a session is bound to, by options and by an API key. Pure."""

from __future__ import annotations

import pytest

from llmfeatures import Entity, Registry
from llmfeatures.errors import RequestError, UnknownNameError
from llmfeatures.mcp.binding import Binding, binding_of
from llmfeatures.problems import ProblemError
from llmfeatures.refs import role_of
from tests.mcp.conftest import api_key

USER = Entity("user", join_keys={"tenant_id": "int", "user_id": "str"})
TITLE = Entity("title", join_key="title_id")
REGISTRY = Registry([USER, TITLE])


def test_values_are_typed_and_roles_have_them_by_their_names() -> None:
    binding = binding_of(REGISTRY, ["tenant_id=7", "user_id=a=b"], ["title_id"])
    buyer, title = role_of("buyer", USER), role_of("title", TITLE)
    keys = binding.keys([buyer, title])
    assert keys.bound == {"buyer_tenant_id": 7, "buyer_user_id": "a=b"}
    assert list(keys.open) == ["title_id"]
    assert not keys.absent
    assert list(Binding().keys([buyer]).absent) == ["buyer_tenant_id", "buyer_user_id"]


@pytest.mark.parametrize(
    ("bind", "opened", "said"),
    [
        (["user_id"], [], "--bind takes KEY=VALUE"),
        (["user_id="], [], "--bind user_id= has no value; give one, like --bind user_id=8a2f"),
        (["user_id=\t"], [], "--bind user_id= has no value"),
        (["tenant_id="], [], "--bind tenant_id= has no value"),
        (["tenant_id=x"], [], "tenant_id is of type int: not an int"),
        (["user_id=a", "user_id=b"], [], "user_id is bound twice"),
        (["user_id=a"], ["user_id"], "user_id is bound, so calls cannot name it"),
    ],
)
def test_wrong_options_say_what_to_do(bind: list[str], opened: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        binding_of(REGISTRY, bind, opened)


def test_an_unknown_join_key_lists_the_known_ones() -> None:
    for bind, opened in ((["usr_id=a"], []), ([], ["usr_id"])):
        with pytest.raises(UnknownNameError, match="did you mean 'user_id'"):
            binding_of(REGISTRY, bind, opened)


def test_a_key_without_an_entity_changes_nothing() -> None:
    binding = binding_of(REGISTRY, ["user_id=a"], [])
    assert binding.of_key(None, REGISTRY) is binding
    assert binding.of_key(api_key("read"), REGISTRY) is binding


def test_a_key_and_the_options_bind_together() -> None:
    binding = binding_of(REGISTRY, ["tenant_id=7"], ["user_id", "title_id"])
    found = binding.of_key(api_key("read", tenant_id=None, user_id="a"), REGISTRY)
    assert dict(found.values) == {"tenant_id": 7, "user_id": "a"}
    assert found.open == frozenset()
    assert found.closed
    assert list(found.keys([role_of("title", TITLE)]).absent) == ["title_id"], "a key is for what it names alone"


@pytest.mark.parametrize("entity", [{"user_id": "b"}, {"tenant_id": "x"}])
def test_a_key_of_another_entity_is_refused(entity: dict[str, str]) -> None:
    with pytest.raises(ProblemError, match="bound to another entity"):
        binding_of(REGISTRY, ["user_id=a"], []).of_key(api_key("read", **entity), REGISTRY)
