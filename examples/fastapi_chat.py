"""A chat application: FastAPI, OpenAI's async client, answers streamed, each user with their own context.

    uvicorn fastapi_chat:app

    curl -X POST localhost:8000/chats -H 'x-user-id: 8a2f'
    curl -N localhost:8000/chats/ID/messages -H 'x-user-id: 8a2f' -H 'content-type: application/json' \\
        -d '{"text": "What should I watch?"}'

Who the user is comes from the login, never from what the model or the body says: `current_user` stands for it. A chat
keeps its context as JSON, as a database would, so that each turn is answered by what was known when the chat began.
Needs ``pip install fastapi uvicorn openai``.

Run it in the folder of a project, after ``llmfeatures materialize``. PROMPT is one of its prompts, of a ``user_id``:
``recommender`` is the sample's, that is this repository's.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

from llmfeatures import AsyncContextBuilder, PromptContext

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

PROMPT = "recommender"
"""A prompt of the project, whose join key is ``user_id``."""
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
log = logging.getLogger("chat")
client, builder = AsyncOpenAI(), AsyncContextBuilder.from_project(".")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Give back connections at the end."""
    yield
    await builder.aclose()
    await client.close()


app = FastAPI(title="Chat", lifespan=lifespan)


@dataclass
class Chat:
    """A chat as a database would keep it."""

    user_id: str
    context: str
    turns: list[ChatCompletionMessageParam] = field(default_factory=list["ChatCompletionMessageParam"])


chats: dict[str, Chat] = {}


def current_user(x_user_id: Annotated[str, Header()]) -> str:
    """The user who is logged in: here whom a gateway in front has put into a header."""
    return x_user_id


User = Annotated[str, Depends(current_user)]


class Question(BaseModel):
    """What the user says."""

    text: str


@builder.inject(PROMPT)
async def begin(ctx: PromptContext, user_id: str) -> Chat:
    """A chat with what is known of the user now."""
    return Chat(user_id=user_id, context=ctx.model_dump_json())


@app.post("/chats")
async def new_chat(user_id: User) -> dict[str, str]:
    """Begin a chat."""
    chat_id = uuid.uuid4().hex
    chats[chat_id] = await begin(user_id)
    return {"id": chat_id}


@app.post("/chats/{chat_id}/messages")
async def send(chat_id: str, question: Question, user_id: User) -> StreamingResponse:
    """Answer, as plain text in a stream."""
    chat = chats.get(chat_id)
    if chat is None or chat.user_id != user_id:
        raise HTTPException(404, "there is no such chat")
    return StreamingResponse(answer(chat, question.text), media_type="text/plain; charset=utf-8")


async def answer(chat: Chat, question: str) -> AsyncIterator[str]:
    """The answer, piece by piece; the chat has it once it is whole."""
    ctx = PromptContext.model_validate_json(chat.context)
    asked: list[ChatCompletionMessageParam] = [*chat.turns, {"role": "user", "content": question}]
    pieces: list[str] = []
    finish = None
    async with await client.chat.completions.create(model=MODEL, stream=True, **ctx.chat(asked)) as stream:
        async for chunk in stream:
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                if choice.delta.content:
                    pieces.append(choice.delta.content)
                    yield choice.delta.content
    if finish is None:  # a stream that ends early is no error to the client
        log.warning("an answer was cut off, request %s", ctx.request_id)
        return
    chat.turns = [*asked, {"role": "assistant", "content": "".join(pieces)}]
