"""A finished prompt, and features, as JSON bytes: what pydantic writes for them, at a fraction of its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import orjson

from llmfeatures.context import ContextDocument, FeatureValue, PromptContext
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import json_value

# timestamps in the one text form that `clock.iso` gives
_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_SUBCLASS


class ContextWriter:
    """Writes the contexts of one prompt. Equal, as JSON, to ``ctx.model_dump_json()``."""

    def __init__(self, plan: PromptPlan) -> None:
        origins = {name: origin.model_dump(mode="json") for name, origin in plan.origins.items()}
        self._origins = orjson.Fragment(orjson.dumps(origins))
        self._inputs = orjson.Fragment(orjson.dumps(dict(plan.input_dtypes)))
        self._of_documents = {
            one.name: {
                "metadata": orjson.Fragment(orjson.dumps(dict(one.metadata))),
                "features": orjson.Fragment(
                    orjson.dumps({name: origin.model_dump(mode="json") for name, origin in one.origins.items()})
                ),
            }
            for one in plan.documents
        }

    def json(self, ctx: PromptContext) -> bytes:
        """The context as JSON."""
        try:
            return orjson.dumps(self._plain(ctx), default=_plain_value, option=_OPTIONS)
        except TypeError:  # an int beyond 64 bits in a json feature
            return ctx.model_dump_json().encode()

    def json_list(self, name: str, contexts: Sequence[PromptContext]) -> bytes:
        """``{name: [context, ...]}``."""
        return b'{"%s":[%s]}' % (name.encode(), b",".join([self.json(ctx) for ctx in contexts]))

    def _plain(self, ctx: PromptContext) -> dict[str, Any]:
        manifest = ctx.manifest
        return {
            "request_id": ctx.request_id,
            "prompt": ctx.prompt,
            "version": ctx.version,
            "prompt_id": ctx.prompt_id,
            "as_of": ctx.as_of,
            "messages": ctx.messages,
            "features": _plain_features(ctx.features),
            "values": ctx.values,
            "documents": {name: [_plain_document(one) for one in found] for name, found in ctx.documents.items()},
            "config": ctx.config,
            "tokens": ctx.tokens,
            "manifest": {
                "source": manifest.source,
                "clock": manifest.clock,
                "degraded": manifest.degraded,
                "problem": manifest.problem,
                "keys": manifest.keys,
                "inputs": self._inputs,
                "features": self._origins,
                "library": manifest.library,
                "sections": [one.model_dump() for one in manifest.sections],
                "cache_breaks": [list(one) for one in manifest.cache_breaks],
                "prefix": None if manifest.prefix is None else manifest.prefix.model_dump(),
                "retrievals": {
                    name: {**vars(one), **self._of_documents[name]} for name, one in manifest.retrievals.items()
                },
                "timings": manifest.timings,
                "conversation": manifest.conversation,
            },
        }


def features_json(rows: Sequence[Mapping[str, FeatureValue]], dtypes: Mapping[str, str]) -> bytes:
    """``{"rows": [{name: {value, status, event_timestamp}}], "dtypes": {name: dtype}}``."""
    plain = {"rows": [_plain_features(row) for row in rows], "dtypes": dtypes}
    try:
        return orjson.dumps(plain, default=_plain_value, option=_OPTIONS)
    except TypeError:
        import json

        return json.dumps(plain, default=json_value).encode()


def _plain_document(one: ContextDocument) -> dict[str, Any]:
    return {**vars(one), "features": {entity: _plain_features(found) for entity, found in one.features.items()}}


def _plain_features(features: Mapping[str, FeatureValue]) -> dict[str, Any]:
    return {
        name: {"value": found.value, "status": found.status, "event_timestamp": found.event_timestamp}
        for name, found in features.items()
    }


def _plain_value(value: Any) -> Any:
    if type(value) is Decimal:
        return f"{value:f}"
    return json_value(value)
