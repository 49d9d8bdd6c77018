# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Messages as JSON, for all rows of a batch at once."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pyarrow as pa
from pyarrow import compute

pc: Any = compute
_BYTES: Final = pa.large_binary()
_MOST_PROMPTS: Final = 100_000
_MOST_BYTES: Final = 64 << 20
"""Beyond either, texts of earlier batches are forgotten."""


class MessageTexts:
    """Makes the texts of batches; those of prompts of earlier batches are taken again."""

    def __init__(self, head: str = "", tail: str = "") -> None:
        self._head, self._tail = _bytes(head), _bytes(tail)
        self._forget()

    def of(self, batch: pa.RecordBatch) -> Any:
        """The messages of each row as the inside of a JSON array, between head and tail; every row has a prompt."""
        encoded = batch.column("prompt_id").dictionary_encode()
        ids = encoded.dictionary.to_pylist()
        fresh = [place for place, one in enumerate(ids) if one not in self._places]
        firsts = pc.index_in(pa.array(fresh, encoded.indices.type), encoded.indices)
        inside = message_texts(batch.column("messages").take(firsts))
        texts = pc.binary_join_element_wise(self._head, inside, self._tail, _bytes(""))
        if len(fresh) == batch.num_rows:  # nothing repeats: it is not worth keeping
            return texts
        if len(self._places) + len(fresh) > _MOST_PROMPTS or self._texts.nbytes + texts.nbytes > _MOST_BYTES:
            if len(fresh) < len(ids):  # some are among those to forget
                self._forget()
                return self.of(batch)
            self._forget()
        for place in fresh:
            self._places[ids[place]] = len(self._places)
        self._texts = pa.concat_arrays([self._texts, texts])
        places = pa.array([self._places[one] for one in ids], pa.int64())
        return self._texts.take(places.take(encoded.indices))

    def _forget(self) -> None:
        self._places: dict[str, int] = {}
        self._texts: Any = pa.array([], _BYTES)


def message_texts(messages: Any) -> Any:
    """Each list of messages, list<struct<role, content>> without nulls, as the inside of a JSON array."""
    flat = messages.flatten()
    text = _bytes(",")
    made = pc.binary_join_element_wise(
        _bytes('{"role":"'), _inside(flat.field("role")), _bytes('","content":"'), _inside(flat.field("content")),
        _bytes('"}'), _bytes(""),
    )  # fmt: skip
    if len(made) == len(messages) and pc.all(pc.equal(messages.value_lengths(), 1)).as_py():
        return made
    ends = [0, *pc.cumulative_sum(messages.value_lengths()).to_pylist()]
    return pc.binary_join(pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), made), text)


def _inside(texts: Any) -> Any:
    """Each text as JSON, without its quotes."""
    if not len(texts):
        return pa.array([], _BYTES)
    if pc.any(pc.ends_with(texts, '",')).as_py():
        return pa.array([orjson.dumps(one)[1:-1] for one in texts.to_pylist()], _BYTES)
    # one call for all of them; only where a text ends so could what is between two texts be found anywhere else
    return pa.array(orjson.dumps(texts.to_pylist())[2:-2].split(b'","'), _BYTES)


def _bytes(text: str) -> Any:
    return pa.scalar(text.encode(), _BYTES)
