"""What a caller adds to a prompt: a user's text, or the turns of a conversation as the provider's own messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, cast

from llmfeatures.errors import RequestError

_INSTEAD_OF_CONTENT: Final = ("tool_calls", "function_call", "refusal", "audio")
"""What an assistant message of OpenAI's may have in place of content."""
_EMPTY: Final = "has no content; give it text or parts, or leave it out"
_ANTHROPIC: Final = ("user", "assistant", "system")


def place_of(prompt: str, roles: Sequence[str], conversation: int | None, user: str | Sequence[Any]) -> int:
    """Before which of a prompt's messages the caller's go: where the conversation's place is, else at the end. ``user``
    is a text, or the turns of a client.

    Raises:
        RequestError: the prompt ends in a user message behind that place, and there is another, or it has no place.
    """
    place = len(roles) if conversation is None else conversation
    asks = bool(roles) and roles[-1] == "user" and (conversation is None or place < len(roles))
    if asks and isinstance(user, str):
        raise RequestError(
            f"prompt {prompt!r} already ends in a user message; call this without an argument, "
            "or take the user message out of the prompt file"
        )
    if asks and conversation is None:
        raise RequestError(
            f"prompt {prompt!r} already ends in a user message, and does not say where earlier turns go; write "
            "{% conversation %} before that message in the prompt file, or take the message out of it"
        )
    turns: Sequence[Any] = () if isinstance(user, str) else user
    if asks and turns and _asks(turns[-1]):
        raise RequestError(
            f"prompt {prompt!r} already ends in a user message, and so does the list; give the turns before that one, "
            "or take the user message out of the prompt file"
        )
    if not turns and not isinstance(user, str) and not asks:
        raise RequestError("user is an empty list; give the turns so far and the new message, or no argument")
    return place


def _asks(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is of a user; a tool's result is none, though Anthropic's are of this role."""
    content = turn.get("content")
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    maps = [cast("Mapping[str, Any]", one) for one in parts if isinstance(one, Mapping)]
    result = any(one.get("type") == "tool_result" for one in maps)
    return turn.get("role") == "user" and not result


def chat_turns(user: object) -> list[Any]:
    """Messages for OpenAI's chat completions: copies.

    Raises:
        RequestError: it is neither text nor a list of such messages.
    """
    return _turns(user, _check_chat)


def response_turns(user: object) -> list[Any]:
    """Input items for OpenAI's responses: copies. Raises as `chat_turns`."""
    return _turns(user, _check_response)


def anthropic_turns(user: object) -> list[Any]:
    """Messages for Anthropic's client: copies. Raises as `chat_turns`."""
    return _turns(user, _check_anthropic)


def _turns(user: object, check: Callable[[str, Mapping[str, Any]], None]) -> list[Any]:
    if isinstance(user, str):
        return [{"role": "user", "content": user}]
    if not isinstance(user, (list, tuple)):
        hint = "; put it into a list" if isinstance(user, Mapping) else ""
        kind = type(cast("object", user)).__name__
        raise RequestError(f"user is text or a list of messages, not {kind}{hint}")
    return [_turn(number, one, check) for number, one in enumerate(cast("Sequence[object]", user))]


def _turn(number: int, given: object, check: Callable[[str, Mapping[str, Any]], None]) -> dict[str, Any]:
    where, kind = f"user[{number}]", type(given).__name__
    try:
        if isinstance(given, Mapping):
            copied = deepcopy(dict(cast("Mapping[str, Any]", given)))
        elif callable(dump := getattr(given, "model_dump", None)):
            # a part of an answer: as the client would send it
            left_out = getattr(given, "__api_exclude__", None)
            copied = cast("dict[str, Any]", dump(mode="json", exclude_unset=True, exclude=left_out, warnings=False))
        else:
            copied = None
    except Exception as error:  # noqa: BLE001  (a stream or a lock has no copy, and each says so in its own way)
        said = f"{where} cannot be copied: it holds what is no plain data"
        raise RequestError(f"{said} ({type(error).__name__})") from None
    if copied is None:
        raise RequestError(f'{where} is a message like {{"role": "user", "content": "…"}}, not {kind}')
    check(where, copied)
    return copied


def _role(where: str, message: Mapping[str, Any]) -> str:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{where} has no role; a message has a role, like 'user' or 'assistant', and content")
    return role


def _check_chat(where: str, message: Mapping[str, Any]) -> None:
    role = _role(where, message)
    if message.get("content") is not None:
        return
    if role != "assistant" or not any(message.get(name) for name in _INSTEAD_OF_CONTENT):
        raise RequestError(f"{where}, a message of {role!r}, {_EMPTY}")


def _check_response(where: str, item: Mapping[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind != "message" and isinstance(kind, str) and kind:  # a tool's call or output, reasoning, …
        return
    role = _role(where, item)
    if item.get("content") is None:
        raise RequestError(f"{where}, a message of {role!r}, {_EMPTY}")


def _check_anthropic(where: str, message: Mapping[str, Any]) -> None:
    role = _role(where, message)
    if role not in _ANTHROPIC:
        hint = "; a tool's result is a user message with a tool_result block" if role in ("tool", "function") else ""
        hint = "; instructions belong into the prompt file" if role == "developer" else hint
        raise RequestError(f"{where} is of {role!r}; Anthropic's are of {', '.join(map(repr, _ANTHROPIC))}{hint}")
    if message.get("content") is None:
        raise RequestError(f"{where}, a message of {role!r}, {_EMPTY}")
