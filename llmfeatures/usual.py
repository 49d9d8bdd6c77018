"""The usual call by a short way: one entity known by one text key, every feature there and young enough.

`Usual` makes of such a call what `PromptPlan.bind`, `FeaturePlan.read` and `PromptPlan.finish` make of it, in one pass
and with little between; it gives None for any other, which then goes the ordinary way. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any, cast

import orjson

from llmfeatures.clock import back
from llmfeatures.codec import STAMP_LENGTH, event_of
from llmfeatures.context import FeatureValue, PromptContext, made_context, made_manifest, prompt_id, request_id
from llmfeatures.errors import InvalidValueError, RenderError, RequestError
from llmfeatures.ports import Read
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import Names
from llmfeatures.version import __version__

_loads = orjson.loads
_new = cast("Callable[..., Any]", tuple.__new__)


class Usual:
    """The usual call of one prompt. Immutable, as its plan is. Make it with `usual_of`."""

    __slots__ = ("_config", "_fields", "_limits", "_manifest", "_moment_of", "_name", "_names", "_plan", "_prefix",
                 "_types", "_version", "parameter")  # fmt: skip

    def __init__(self, plan: PromptPlan, types: list[type]) -> None:
        features = plan.features
        self._plan, self._name, self._version, self._config = plan, plan.name, plan.version, plan.config
        self._names, self._types, self._moment_of = features.names, types, features.moment_of
        self._limits: tuple[tuple[int, timedelta], ...] = features.limits
        self._fields = features.fields[0]
        self.parameter = features.roles[0].parameters[0]
        (join_key,) = features.roles[0].entity.join_keys
        self._prefix = f"{join_key}:"
        self._manifest: dict[str, Any] = {
            "source": "online",
            "clock": None,
            "degraded": False,
            "problem": None,
            "keys": {},
            "inputs": plan.input_dtypes,
            "features": plan.origins,
            "library": __version__,
            "sections": (),
            "cache_breaks": (),
            "prefix": None,
            "retrievals": {},
            "timings": {},
            "conversation": None,
        }

    def read(self, given: Mapping[str, Any]) -> Read | None:
        """What to read for a call; None when it is not the usual one."""
        try:
            value = given[self.parameter]
        except KeyError:
            return None
        # what `codec.encode_part` leaves as it is
        if type(value) is not str or not value.isascii() or not value.isalnum():
            return None
        if len(given) > 1 and not given.keys() <= self._plan.parameters.keys():
            return None
        return _new(Read, (self._prefix + value, self._fields))

    def reads(self, rows: Sequence[Mapping[str, Any]]) -> list[Read] | None:
        """What to read for the rows of a call; None when one of them is not the usual one."""
        reads: list[Read] = []
        for row in rows:
            read = self.read(row) if isinstance(row, dict) else None
            if read is None:
                return None
            reads.append(read)
        return reads

    def context(self, given: Mapping[str, Any], answer: Sequence[str | None], as_of: datetime) -> PromptContext | None:
        """The prompt of the call that `read` was for; None when a feature is not there, or not the usual one.

        Raises:
            As `PromptPlan.bind` and `PromptPlan.finish`.
        """
        found = self._found(answer)
        if found is None:
            return None
        for moment in found[1]:
            if moment > as_of:  # noqa: PLR1730  a call costs
                as_of = moment  # a writer's clock is ahead: its value still counts
        return self._made(given, *found, as_of)

    def contexts(
        self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str | None]], as_of: datetime
    ) -> list[PromptContext] | None:
        """The prompts of the call that `reads` was for, all of one moment; None when one is not the usual one, or is
        an error."""
        whole: list[tuple[list[Any], list[datetime]]] = []
        for answer in answers:
            found = self._found(answer)
            if found is None:
                return None
            as_of = max(as_of, *found[1])
            whole.append(found)
        made: list[PromptContext] = []
        try:
            for row, found in zip(rows, whole, strict=True):
                context = self._made(row, *found, as_of)
                if context is None:
                    return None
                made.append(context)
        except (RequestError, RenderError):  # the ordinary way says which row it was
            return None
        return made

    def _made(
        self, given: Mapping[str, Any], values: list[Any], moments: list[datetime], as_of: datetime
    ) -> PromptContext | None:
        """The prompt of values, and of the moment of each different stamp; None when one is too old."""
        if self._moment_of is not None:
            moments = [moments[place] for place in self._moment_of]
        for place, limit in self._limits:
            if moments[place] < back(as_of, limit):
                return None
        plan = self._plan
        features: dict[str, FeatureValue] = {}
        variables = Names()
        for name, value, moment in zip(self._names, values, moments):  # noqa: B905  strict costs; all are one per feature
            features[name] = _new(FeatureValue, (value, "present", moment))
            variables[name] = value
        if plan.inputs:
            variables.update(plan.bind_inputs(given))
        parameter = self.parameter
        variables[parameter] = key = given[parameter]
        rendered = dict(variables)
        variables["as_of"] = as_of
        messages, conversation = plan.template.placed(variables)
        if not messages:
            raise RenderError(plan.no_message)
        manifest = self._manifest.copy()
        manifest["keys"] = {parameter: key}
        manifest["conversation"] = conversation
        return made_context(
            {
                "request_id": request_id(),
                "prompt": self._name,
                "version": self._version,
                "prompt_id": prompt_id(messages),
                "as_of": as_of,
                "messages": [{"role": role, "content": content} for role, content in messages],
                "features": features,
                "values": rendered,
                "documents": {},
                "config": deepcopy(self._config) if self._config else {},
                "tokens": None,
                "manifest": made_manifest(manifest),
            }
        )

    def _found(self, answer: Sequence[str | None]) -> tuple[list[Any], list[datetime]] | None:
        """The values, and the moment of each different stamp."""
        if None in answer:
            return None
        texts = cast("Sequence[str]", answer)
        count = len(self._names)
        try:
            values = _loads(f"[{','.join(texts[:count])}]")
            if [*map(type, values)] != self._types:
                return None
            moments: list[datetime] = []
            last = ""
            for stamp in texts[count:]:
                if stamp[:STAMP_LENGTH] == last:
                    moments.append(moments[-1])
                    continue
                last = event_of(stamp)
                moments.append(datetime.fromisoformat(last))
        except (InvalidValueError, ValueError):
            return None
        return values, moments


def usual_of(plan: PromptPlan) -> Usual | None:
    """The usual call of a prompt; None for a prompt that has none: of several entities, or an entity with several join
    keys or one that is no text, or with features that are more than their JSON; or with a budget or a cache break."""
    features = plan.features
    if features.types is None or features.computed or features.dotted or not all(ref.printed for ref in features.refs):
        return None
    if not plan.is_plain or plan.documents:
        return None
    (role,) = features.roles
    if [dtype.kind for dtype in role.entity.join_keys.values()] != ["str"]:
        return None
    return Usual(plan, features.types)
