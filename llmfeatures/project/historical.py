# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What was at any moment: features, prompts, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llmfeatures import config as configuration
from llmfeatures.builder import (
    clock_name,
    moment,
)
from llmfeatures.clock import as_utc, back, parse_duration
from llmfeatures.errors import (
    ConfigError,
    InvalidValueError,
    RequestError,
)
from llmfeatures.options import check_options
from llmfeatures.project.stores import Stores
from llmfeatures.protected import source_files
from llmfeatures.types import DType

if TYPE_CHECKING:
    import pyarrow as pa

    from llmfeatures.diff.result import PromptDiff
    from llmfeatures.historical_documents import DocumentsOf
    from llmfeatures.history import History
    from llmfeatures.prepared import PreparedSpine
    from llmfeatures.released_history import Reign
    from llmfeatures.timeline import Timeline


class Historical(Stores):
    """What was at any moment: features, prompts, and what changed."""

    def get_historical_features(
        self, spine: object, features: Sequence[str], *, clock: str = "known", statuses: bool = False
    ) -> pa.RecordBatchReader:
        """Features as they were at each row's ``event_timestamp``: the spine's columns, then one per feature, null
        where it is not present. Rows in = rows out, in order, streamed.

        Args:
            spine: a path (Parquet, CSV, JSONL, Arrow), an Arrow table or reader, a pandas or polars frame, or a
                DuckDB relation, with the join keys and ``event_timestamp`` (naive is UTC).
            features: names, ``status`` or ``user.status`` (which comes back as ``user__status``).
            clock: ``known`` (what was true and had arrived) or ``event`` (what was true).
            statuses: add ``NAME__status`` and ``NAME__event_timestamp``.

        Raises:
            SpineError: the spine cannot be read, lacks a column, or has one named like a feature.
            SourceError: a source is not what the registry says.
            RenderError: an on-demand feature cannot be computed for a row.
        """
        from llmfeatures.historical_features import historical_features

        plan = self._asked(features)
        return historical_features(self.offline, plan, spine, clock=clock_name(clock), statuses=statuses)

    def spine(
        self,
        prompt: str,
        *,
        users: int | None = None,
        every: timedelta | str = "1d",
        since: timedelta | str = "30d",
        until: datetime | str | None = None,
        where: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        seed: int = 0,
        clock: str = "known",
    ) -> pa.Table:
        """A spine for a prompt, drawn from the history: the same options give the same rows. See `sampled_spine`.

        Args:
            prompt: its name; it is about one entity.
            users: how many; None is all.
            every: the time from one moment to the next, which are its multiples since 1970-01-01T00:00Z.
            since: how far back from ``until`` the moments go.
            until: the end; None is now.
            where: one SQL expression over join keys, ``event_timestamp`` and features as of the moment; on-demand ones
                take the prompt's inputs.
            inputs: values for the prompt's inputs, the same in every row.
            seed: another one draws other users.
            clock: which values ``where`` sees: ``known`` or ``event``.

        Raises:
            UnknownNameError: there is no such prompt.
            RequestError: an option is wrong, or nobody is there.
            SourceError: a source is not what the registry says.
        """
        from llmfeatures.report.origin import drawn
        from llmfeatures.spine import sampled_spine

        options = {"users": users, "every": every, "since": since, "where": where, "seed": seed}
        check_options({"prompt": prompt, "inputs": inputs, **options}, needed=("prompt", "every", "since", "seed"))
        plan = self.prompts.plan(prompt)
        table = sampled_spine(
            self.offline,
            plan,
            self.registry,
            until=self.clock() if until is None else moment("until", until),
            users=users,
            every=every,
            since=since,
            where=where,
            inputs=inputs,
            seed=seed,
            clock=clock_name(clock),
        )
        return drawn(table, tuple(plan.features.parameters), options)

    def prepared_spine(
        self,
        prompt: str,
        spine: object,
        *,
        sample: int | None = None,
        stratify: str | None = None,
        target: str | None = None,
        label: str | None = None,
        seed: int = 0,
        clock: str = "known",
    ) -> PreparedSpine:
        """A given spine with rows drawn from it and its target named, as `history` reads it. Nothing is read yet.

        Args:
            prompt: its name.
            spine: as for `history`.
            sample: keep so many rows, in their order.
            stratify: in proportion to the values of this column.
            target: the column that is the target.
            label: the feature that is the target, and how long after the prompt: ``last_genre@+7d``. Its text, or null.
            seed: another one draws other rows.
            clock: as for `history`.

        Raises:
            UnknownNameError: there is no such prompt or feature.
            RequestError: an option is wrong.
        """
        from llmfeatures.labels import Label
        from llmfeatures.prepared import prepared

        options = {"sample": sample, "stratify": stratify, "target": target, "label": label}
        check_options({"prompt": prompt, "seed": seed, **options})
        plan = self.prompts.plan(prompt)
        return prepared(
            self.offline,
            spine,
            dtypes={**plan.parameters, "id": DType("str"), "target": DType("str")},
            now=self.clock(),
            clock=clock_name(clock),
            target=target,
            label=None if label is None else Label.of(label, plan, self.registry),
            sample=sample,
            stratify=stratify,
            seed=seed,
        )

    def history(
        self,
        prompt: str,
        spine: object = None,
        *,
        clock: str = "known",
        users: int | None = None,
        every: timedelta | str | None = None,
        since: timedelta | str | None = None,
        until: datetime | str | None = None,
        where: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        sample: int | None = None,
        stratify: str | None = None,
        target: str | None = None,
        label: str | None = None,
        seed: int = 0,
        without: str | Sequence[str] | None = None,
        release: str | None = None,
        live_documents: bool = False,
    ) -> History:
        """Historical prompts: one per row of the spine, which also has the prompt's inputs. See `History`.

        Args:
            prompt: its name.
            spine: as for `get_historical_features`; None draws one with ``users``, ``every``, ``since``, ``until``,
                ``where`` and ``inputs``, as `spine` does.
            clock: ``known`` (what was true and had arrived) or ``event`` (what was true).
            users: see `spine`.
            every: see `spine`.
            since: see `spine`.
            until: see `spine`.
            where: see `spine`.
            inputs: see `spine`.
            sample: see `prepared_spine`.
            stratify: see `prepared_spine`.
            target: see `prepared_spine`.
            label: see `prepared_spine`.
            seed: what is drawn; the same seed draws the same.
            without: features; each adds a row after every row, in which it is read as missing.
            release: the prompt as a release has it, as for `at_release`; or ``then``: each row by the release that was
                active at its moment. A row before the first release, or of one that lacks the prompt or cannot be
                rendered here, has an error.
            live_documents: take what a retriever has now where it knows no time, instead of refusing.

        Raises:
            UnknownNameError: there is no such prompt, feature or release.
            PromptError: the prompt cannot be compiled.
            RequestError: an option is wrong, or does not go with another.
            ReleaseError: the release cannot be rendered here, or there is none.
        """
        from llmfeatures.history import History

        if release is not None and release != "then":
            return self.at_release(release).history(
                prompt,
                spine,
                clock=clock,
                users=users,
                every=every,
                since=since,
                until=until,
                where=where,
                inputs=inputs,
                sample=sample,
                stratify=stratify,
                target=target,
                label=label,
                seed=seed,
                without=without,
                live_documents=live_documents,
            )
        drawn = {"users": users, "every": every, "since": since, "where": where, "inputs": inputs}
        others = {"sample": sample, "stratify": stratify, "target": target, "label": label, "without": without}
        check_options({"prompt": prompt, "seed": seed, **drawn, **others})
        options: dict[str, Any] = {
            name: value for name, value in {**drawn, "until": until}.items() if value is not None
        }
        if release is not None and without:
            raise RequestError("without goes with one prompt, and release='then' has several; leave one of them out")
        if spine is None:
            spine = self.spine(prompt, **options, seed=seed, clock=clock)
        elif options:
            raise RequestError(
                f"{next(iter(options))} draws a spine, and one is given; leave one of them out"
                + ("; inputs are columns of the spine" if "inputs" in options else "")
            )
        if sample is not None or stratify is not None or target is not None or label is not None:
            spine = self.prepared_spine(
                prompt, spine, sample=sample, stratify=stratify, target=target, label=label, seed=seed, clock=clock
            )
        if release is not None:
            from llmfeatures.released_history import ReleasedHistory

            return ReleasedHistory(
                self._reigns(prompt),
                spine,
                before=self._before_all(),
                offline=self.offline,
                clock=clock_name(clock),
                exporters=configuration.exporters(),
                protected=source_files(self.config.root, self.registry),
                retrievers=self.retrieving,
                live_documents=live_documents,
            )
        return History(
            self.prompts.plan(prompt),
            spine,
            offline=self.offline,
            clock=clock_name(clock),
            exporters=configuration.exporters(),
            without=without or (),
            protected=source_files(self.config.root, self.registry),
            retrievers=self.retrieving,
            live_documents=live_documents,
        )

    def timeline(
        self,
        prompt: str,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        since: datetime | timedelta | str = "30d",
        until: datetime | str | None = None,
        clock: str = "known",
        **keys_and_inputs: Any,
    ) -> Timeline:
        """Every moment at which a prompt became another one for somebody, newest first. See `Timeline`.

        Args:
            prompt: its name. A prompt that reads ``as_of`` has no timeline.
            given: join keys and inputs by name, for those that are called like an option of this method.
            since: from when on: a moment, or how long before ``until``, such as ``30d``.
            until: to when; None is now. A moment is a datetime or ISO 8601 text, naive is UTC.
            clock: which rows count: ``known`` (true and arrived) or ``event`` (true).
            **keys_and_inputs: each join key and input by name.

        Raises:
            UnknownNameError: there is no such prompt.
            RequestError: a name is absent or unknown, or a value or option is wrong.
            PromptError: the prompt reads ``as_of``, or cannot be compiled.
            SourceError: a source is not what the registry says.
        """
        from llmfeatures.timeline import timeline

        end = self.clock() if until is None else moment("until", until)
        return timeline(
            self.offline,
            self.prompts.plan(prompt),
            {**(given or {}), **keys_and_inputs},
            since=_since(since, end),
            until=end,
            clock=clock_name(clock),
            retrievers=self.retrieving,
        )

    def diff(
        self,
        prompt: str,
        against: str = "git:HEAD",
        spine: object = None,
        *,
        users: int | None = None,
        every: timedelta | str | None = None,
        since: timedelta | str | None = None,
        until: datetime | str | None = None,
        where: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        seed: int = 0,
        clock: str = "known",
        price: Decimal | str | float | None = None,
        live_documents: bool = False,
    ) -> PromptDiff:
        """What a change of a prompt does to its history: another version of it and this one over the same rows.

        Args:
            prompt: its name.
            against: the version before: ``git:REV`` (with the partials of the revision), the path of a prompt file, or
                the first six or more digits of a version that a release keeps.
            spine: as for `history`; None draws one.
            users: of a drawn spine: how many, 100 unless given; see `spine`.
            every: see `spine`; ``1d``.
            since: see `spine`; ``30d``.
            until: see `spine`.
            where: see `spine`.
            inputs: values for inputs that are no columns of the spine. A drawn spine has stand-ins for the others.
            seed: see `spine`.
            clock: as for `history`.
            price: of a million input tokens; None is ``[diff] price``, if it is set.
            live_documents: as for `history`.

        Raises:
            UnknownNameError: there is no such prompt.
            PromptError: one of the versions cannot be compiled with the present registry.
            RequestError: an option is wrong, does not go with another, or names no version.
            SpineError: the spine cannot be read, or lacks a column.
            SourceError: a source is not what the registry says.
        """
        from llmfeatures.diff.compare import asked_price, asked_rows, compare
        from llmfeatures.diff.sources import Version, other_version

        drawing = {"users": users, "every": every, "since": since, "where": where}
        check_options({"prompt": prompt, "inputs": inputs, "seed": seed, **drawing})
        at = None if until is None else moment("until", until)
        plan = self.prompts.plan(prompt)
        old = other_version(
            prompt, against, registry=self.registry, folder=self.config.prompts, state=lambda: self.state
        )
        return compare(
            self.offline,
            self.registry,
            old,
            Version(label=plan.path, plan=plan),
            spine=asked_rows(spine, {**drawing, "until": at}, now=self.clock(), seed=seed),
            inputs=inputs or {},
            clock=clock_name(clock),
            documents=self._documents_of(clock, live=live_documents),
            price=asked_price(self.config.diff.price if price is None else price),
        )

    def _documents_of(self, clock: str, *, live: bool) -> DocumentsOf:
        from llmfeatures.historical_documents import documents_of

        at_clock = clock_name(clock)
        return lambda plan: documents_of(plan, self.offline, self.retrieving, at_clock, live=live)

    def _reigns(self, prompt: str) -> list[Reign]:
        """Which plan a prompt had from when on, by the releases that were active."""
        from llmfeatures.released_history import Reign
        from llmfeatures.releases.rebuilding import reigning

        found = reigning(self.releases, prompt, (self._stores or self).registry)
        return [Reign(since=since, plan=plan, reason=reason) for since, plan, reason in found]

    def _before_all(self) -> str:
        """Why a moment before the first release has no prompt of the time."""
        first = next(iter(self.releases.activations()), None)
        when = "" if first is None else f"; the first is of {first.at}"
        return f"no release was active then{when}"


def _since(since: datetime | timedelta | str, until: datetime) -> datetime:
    """The begin that a moment, or a length of time before ``until``, names."""
    if isinstance(since, datetime):
        return moment("since", since)
    if isinstance(since, timedelta):
        return back(until, since)
    if not isinstance(since, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"since is a moment or a length of time such as 30d, not {type(since).__name__}")
    with suppress(ConfigError):
        return back(until, parse_duration(since))
    try:
        return as_utc(since)
    except InvalidValueError:
        raise RequestError(f"since: {since!r} is no length of time such as 30d, and no moment in ISO 8601") from None
