# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Parquet for Hugging Face ``datasets`` and TRL: ``messages`` with the target as the last one, and what is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures.export.growing import ParquetParts
from llmfeatures.export.lines import has_documents, with_prompt
from llmfeatures.export.parquet import ParquetWriting
from llmfeatures.export.writing import ResumableExporter, Writing

pc: Any = compute


class HfExporter(ResumableExporter):
    """Writes one row per prompt. ``prompt`` is called ``prompt_name``, since TRL takes ``prompt`` for messages; structs
    without fields, ``error``, and the ``documents`` of a prompt without any are left out."""

    def begun(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> Writing:
        """As `ResumableExporter.begun`."""
        left_out = ("error",) if has_documents(schema) else ("error", "documents")
        names = [field.name for field in schema if field.name not in left_out and not _empty(field.type)]
        made = pa.schema([schema.field(name).with_name(_renamed(name)) for name in names])

        def form(batch: pa.RecordBatch) -> pa.RecordBatch:
            kept = with_prompt(batch)
            arrays = [answered(kept) if name == "messages" else kept.column(name) for name in names]
            return pa.RecordBatch.from_arrays(arrays, schema=made)

        return ParquetWriting(ParquetParts(folder, path, made, state), path, form)


def answered(batch: pa.RecordBatch) -> Any:
    """The messages of each row, and its target after them where it has one."""
    messages, target = batch.column("messages"), batch.column("target")
    rows = pc.indices_nonzero(target.is_valid()).cast(pa.int64())
    if not len(rows):
        return messages
    values = messages.flatten()
    roles = pa.repeat(pa.scalar("assistant", values.type.field("role").type), len(rows))
    contents = target.drop_null().cast(values.type.field("content").type)
    added = pa.StructArray.from_arrays([roles, contents], fields=[values.type.field(0), values.type.field(1)])
    owners = pa.concat_arrays([pc.list_parent_indices(messages).cast(pa.int64()), rows])
    everything = pa.concat_arrays([values, added]).take(pc.sort_indices(owners))
    lengths = pc.add(pc.list_value_length(messages), target.is_valid().cast(pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pa.ListArray.from_arrays(offsets, everything, type=messages.type)


def _renamed(name: str) -> str:
    return "prompt_name" if name == "prompt" else name


def _empty(dtype: Any) -> bool:
    return pa.types.is_struct(dtype) and [field.name for field in dtype] == ["_"]
