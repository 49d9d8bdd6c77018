"""What an embedder must do: the contract of `llmfeatures.ports.Embedder` as tests.

Subclass `EmbedderTests`, give ``open``, and run it with pytest against the real model:

    class TestMyEmbedder(EmbedderTests):
        def open(self):
            return MyEmbedder("model", dimensions=384)
"""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import os
import threading
import warnings
from typing import Any

from llmfeatures.ports import Embedder

TEXTS = (
    *(
        "a thriller about a heist",
        "A thriller about a heist",
        "documentaries on deep sea animals",
        "x",
        " ",
        "\n\t",
        "",
    ),
    *("0", "null", "{{ question }}", "<|endoftext|>", "[CLS] [SEP] [PAD]", "\x00", "\ufffd", "é", "e\u0301", "😀" * 9),
    *("日本語の映画", "مرحبا", "word " * 900, "a" * 5_000),
)
"""Texts of all kinds."""


class EmbedderTests:
    """The contract. Every test opens an embedder of its own."""

    exact = True
    """Whether the same text has the same bytes each time; False for an endpoint that may differ by a little."""

    def open(self) -> Embedder:
        """A new embedder."""
        raise NotImplementedError

    def same(self, one: Any, other: Any) -> bool:
        """Whether vectors are equal."""
        import numpy as np

        return one.shape == other.shape and bool(
            np.array_equal(one, other) if self.exact else np.allclose(one, other, atol=1e-4)
        )

    def test_it_says_what_it_is(self) -> None:
        embedder = self.open()
        assert embedder.model
        assert embedder.dimensions >= 1
        assert (embedder.model, embedder.dimensions) == (self.open().model, self.open().dimensions)

    def test_each_text_has_a_vector_of_unit_length(self) -> None:
        import numpy as np

        embedder = self.open()
        made = embedder.embed(TEXTS)
        assert made.dtype == np.float32
        assert made.shape == (len(TEXTS), embedder.dimensions)
        lengths = np.sqrt((made.astype(np.float64) ** 2).sum(axis=1))
        assert all(abs(length - 1) < 1e-5 or length == 0 for length in lengths.tolist())

    def test_no_texts(self) -> None:
        embedder = self.open()
        assert embedder.embed([]).shape == (0, embedder.dimensions)

    def test_a_text_has_the_same_vector_whatever_it_is_embedded_with(self) -> None:
        embedder = self.open()
        together = embedder.embed(TEXTS)
        assert self.same(embedder.embed(TEXTS[::-1])[::-1], together)
        for place, text in enumerate(TEXTS[:9]):
            assert self.same(embedder.embed([text])[0], together[place]), text
        twice = embedder.embed([TEXTS[0], TEXTS[2], TEXTS[0]])
        assert self.same(twice[0], twice[2])
        assert self.same(self.open().embed(TEXTS[:3]), together[:3])

    def test_different_texts_have_different_vectors(self) -> None:
        made = self.open().embed([TEXTS[0], TEXTS[2]])
        assert not self.same(made[0], made[1])

    def test_what_it_gave_is_not_changed_by_what_comes_after(self) -> None:
        embedder = self.open()
        first = embedder.embed(TEXTS[:2])
        kept = first.copy()
        embedder.embed(TEXTS[2:4])
        assert self.same(first, kept)

    def test_many_threads_at_once(self) -> None:
        embedder = self.open()
        expected = embedder.embed(TEXTS[:6])
        wrong: list[object] = []

        def run(place: int) -> None:
            try:
                for _ in range(3):
                    if not self.same(embedder.embed([TEXTS[place]])[0], expected[place]):
                        wrong.append(TEXTS[place])  # noqa: PERF401
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

        threads = [threading.Thread(target=run, args=(place % 6,)) for place in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_forked_child_embeds(self) -> None:
        if not hasattr(os, "fork"):
            return
        embedder = self.open()
        expected = embedder.embed(TEXTS[:6])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                os._exit(0 if self.same(embedder.embed(TEXTS[:6]), expected) else 1)
            finally:
                os._exit(99)
        assert self.same(embedder.embed(TEXTS[:6]), expected)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
