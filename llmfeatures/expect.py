"""Whether the rows that a materialize would write are what their view expects. Pure: numbers in, a sentence out."""

from __future__ import annotations

from collections.abc import Mapping

from llmfeatures.schema import Expect

_REMEDY = "mend the source, or run it once with --accept if this is right"


def counts_keys(expect: Expect | None) -> bool:
    """Whether all entity keys of the source must be counted."""
    return expect is not None and (expect.min_rows is not None or expect.max_drop is not None)


def counts_nulls(expect: Expect | None) -> bool:
    """Whether the nulls of all rows must be counted before the first is written."""
    return expect is not None and expect.max_nulls is not None


def wrong_keys(view: str, expect: Expect, keys: int, before: int | None) -> str | None:
    """What is wrong with the number of entity keys; None when nothing is.

    Args:
        view: the view's name.
        expect: what it expects.
        keys: how many entity keys the source has by the run's ``until``.
        before: how many it had in the last complete run that counted them; None when there was none.
    """
    if expect.min_rows is not None and keys < expect.min_rows:
        return _sentence(view, f"min_rows: the source has {keys:,} entity keys, and {expect.min_rows:,} are expected")
    if expect.max_drop is None or not before:
        return None
    least = before * (1 - expect.max_drop)
    if keys >= least:
        return None
    return _sentence(
        view,
        f"max_drop: the source has {keys:,} entity keys, {_share(1 - keys / before)} less than the {before:,} of the "
        f"last run, and a drop of at most {_share(expect.max_drop)} is expected",
    )


def wrong_nulls(view: str, expect: Expect, rows: int, nulls: Mapping[str, int]) -> str | None:
    """What is wrong with the number of nulls; None when nothing is.

    Args:
        view: the view's name.
        expect: what it expects.
        rows: how many rows the run would write.
        nulls: how many of them hold null, for each feature.
    """
    for feature, count in nulls.items():
        most = expect.most_nulls(feature)
        if most is not None and rows and count > most * rows:
            return _sentence(
                view,
                f"max_nulls: feature {feature!r} is null in {count:,} of {rows:,} rows ({_share(count / rows)}), and "
                f"at most {_share(most)} is expected",
            )
    return None


def _share(share: float) -> str:
    return f"{share:.2%}"


def _sentence(view: str, what: str) -> str:
    return f"view {view!r} is not as expected, {what}; nothing of it was written and the old values stay: {_REMEDY}"
