# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Batches of a join as prompts with documents. Hardly two rows have the same ones, so each prompt is rendered alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.context import FeatureValue, prompt_id
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.historical_documents import AsOfRow, HistoricalDocuments, RowDocuments
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.rows import STATUSES, Column, Rendered
from llmfeatures.spanned import MESSAGES

DOCUMENTS: Final[Any] = pa.list_(
    pa.struct([("id", pa.string()), ("version", pa.string()), ("score", pa.float64()), ("tier", pa.string())])
)
WITHOUT: Final = "without"
"""Counts the prompts that have none of a name of documents; the other counts are those of documents by tier."""
_NONE: Final = FeatureValue(None, "missing", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRows:
    """The prompts of a batch, and their documents, as `DOCUMENTS`. ``counts`` are by name of documents."""

    rendered: Rendered
    documents: Any
    counts: Mapping[str, Counter[str]]


class DocumentRenderer:
    """Renders batches of a plan with documents."""

    def __init__(self, plan: PromptPlan, documents: HistoricalDocuments) -> None:
        self.plan, self._documents = plan, documents

    def render(
        self,
        features: Sequence[Column],
        given: Mapping[str, Any],
        at: Any,
        errors: Mapping[int, str],
        every: int = 1,
    ) -> DocumentRows:
        """The prompts of a batch; as `rows.Renderer.render`. Of each ``every`` rows the first counts.

        Raises:
            RetrieverError: a retriever or embedder did not do what was asked.
            SourceError: a source of a feature that documents bring is not what the registry says.
        """
        messages: list[Any] = []
        reasons: list[str | None] = []
        documents: list[list[dict[str, Any]]] = []
        counts: dict[str, Counter[str]] = {one.name: Counter() for one in self.plan.documents}
        asked = self._asked(features, given, at, errors)
        step = self._documents.rows
        for start in range(0, len(at), step):
            block = asked[start : start + step]
            wanted = [one for one in block if isinstance(one, AsOfRow)]
            found = iter(self._documents.found(wanted))
            for row, one in enumerate(block, start):
                if not isinstance(one, AsOfRow):
                    made, reason, listed = None, one, []
                else:
                    beside = next(found)
                    made, reason = self._finished(one, beside)
                    listed = _listed(beside)
                    if made is not None and row % every == 0:
                        _count(counts, self.plan, beside)
                messages.append(made)
                reasons.append(reason)
                documents.append(listed)
        identities = [None if one is None else prompt_id(one) for one in messages]
        written = [
            None if one is None else [{"role": role, "content": content} for role, content in one] for one in messages
        ]
        rendered = Rendered(
            pa.array(written, MESSAGES), pa.array(identities, pa.string()), pa.array(reasons, pa.string())
        )
        return DocumentRows(rendered=rendered, documents=pa.array(documents, DOCUMENTS), counts=counts)

    def _asked(
        self, features: Sequence[Column], given: Mapping[str, Any], at: Any, errors: Mapping[int, str]
    ) -> list[AsOfRow | str | None]:
        """Each row, or why it has no prompt."""
        plan, rows = self.plan, len(at)
        slots = [
            _found(ref.dtype, column) if ref.printed else [_NONE] * rows
            for ref, column in zip(plan.features.outputs, features, strict=True)
        ]
        values = {name: columns.python_values(dtype, given[name]) for name, dtype in plan.parameters.items()}
        made: list[AsOfRow | str | None] = []
        for row, moment in enumerate(columns.moments(at)):
            if moment is None or row in errors:
                made.append(errors.get(row))
                continue
            keys = {name: values[name][row] for name in plan.features.parameters}
            try:
                inputs = plan.bind_inputs({name: values[name][row] for name in plan.inputs})
            except LLMFeaturesError as error:
                made.append(str(error))
                continue
            made.append(AsOfRow([one[row] for one in slots], keys, inputs, moment))
        return made

    def _finished(self, row: AsOfRow, beside: RowDocuments) -> tuple[Any, str | None]:
        if beside.error is not None:
            return None, str(beside.error)
        try:
            return self.plan.finish(row.slots, row.keys, row.inputs, row.at, beside.documents).messages, None
        except LLMFeaturesError as error:
            return None, str(error)


def _found(dtype: Any, column: Column) -> list[FeatureValue]:
    """A settled column as feature values, which no limit changes again."""
    values, codes = columns.python_values(dtype, column.values), column.codes.to_pylist()
    return [FeatureValue(value, STATUSES[code], None) for value, code in zip(values, codes, strict=True)]


def _listed(beside: RowDocuments) -> list[dict[str, Any]]:
    return [
        {"id": one.document.id, "version": one.document.version, "score": one.document.score, "tier": one.tier}
        for found in beside.documents
        for one in found
    ]


def _count(counts: Mapping[str, Counter[str]], plan: PromptPlan, beside: RowDocuments) -> None:
    for one, found in zip(plan.documents, beside.documents, strict=True):
        counts[one.name].update([str(document.tier) for document in found] or [WITHOUT])
