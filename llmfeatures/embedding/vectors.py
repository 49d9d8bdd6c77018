# numpy's kernels take and give what has no narrow type here
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
"""What every embedder does with the vectors that its model made."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeatures.errors import RetrieverError


def unit_vectors(label: str, made: Any, texts: int, dimensions: int) -> Any:
    """The vectors as float32 of unit length, texts by dimensions; one of zeros stays so, and has the score 0 with
    everything. Each row is what it would be alone.

    Raises:
        RetrieverError: there is another number of them, they have other dimensions, or are not finite.
    """
    if made is None:
        raise RetrieverError(f"{label} returned None; a list with a vector for each text is wanted")
    try:
        held = np.asarray(made, np.float64)
    except (TypeError, ValueError):
        raise RetrieverError(f"{label} gave no vectors of numbers, all of one length") from None
    if texts == 0:
        return np.empty((0, dimensions), np.float32)
    if held.ndim != 2 or len(held) != texts:
        raise RetrieverError(f"{label} gave {_shape(held)} for {texts} texts; a vector for each is wanted")
    if held.shape[1] != dimensions:
        raise RetrieverError(
            f"{label} gave vectors of {held.shape[1]} dimensions, and the registry says {dimensions}; correct "
            "dimensions, then run llmfeatures materialize --full"
        )
    if not np.isfinite(held).all():
        raise RetrieverError(f"{label} gave a vector with numbers that are not finite")
    scaled = held / np.maximum(np.abs(held).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    lengths = np.sqrt(np.square(scaled).sum(axis=1, keepdims=True))
    return np.divide(scaled, lengths, out=np.zeros_like(scaled), where=lengths > 0).astype(np.float32)


def _shape(held: Any) -> str:
    return "a number" if held.ndim == 0 else "x".join(str(size) for size in held.shape) + " numbers"
