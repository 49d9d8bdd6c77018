# pyarrow has no types, and scikit-learn has some
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The predictive twin: the features that a prompt prints also train a model, and serve it.

    python examples/train_model.py

Will a viewer watch a title in the next 24 hours? The sample's own history answers for each viewer and day. What was
known at those moments comes from `Project.get_historical_features`, so that no example sees its own future;
scikit-learn learns from it; `Project.get_online_features` then gives the same features at prediction time. Both go
through one function, `example`, and the script ends by comparing them. Needs ``pip install scikit-learn``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from llmfeatures import FeatureValue, Project

ROOT = Path(__file__).resolve().parent.parent
FEATURES = ["user_segment", "watch_count_30d", "last_genre"]
VIEWER = "8a2f"
FIRST, DAYS, DAY = datetime(2026, 4, 27, 16, tzinfo=UTC), 10, timedelta(days=1)
"""Ten moments of every viewer, a day apart."""

Example = dict[str, str | float]


def example(features: Mapping[str, FeatureValue], at: datetime) -> Example:
    """One row for the model, online and in history alike.

    Text becomes one column per word, a number stays one. A value that is not present is no value at all, neither 0
    nor a mean: the model gets its status (``null``, ``missing``, …) as a word instead. Ages are in days at ``at``.
    """
    row: Example = {}
    for name, feature in features.items():
        row[f"{name}__status"] = feature.status
        if feature.status == "present":
            row[name] = feature.value
        if feature.event_timestamp is not None:
            row[f"{name}__age"] = (at - feature.event_timestamp).total_seconds() / 86_400
    return row


def historical(project: Project, spine: object) -> tuple[list[Example], list[dict[str, Any]]]:
    """The examples at the moments of a spine, and the spine's rows, in its order."""
    examples: list[Example] = []
    rows: list[dict[str, Any]] = []
    for batch in project.get_historical_features(spine, FEATURES, statuses=True):
        for row in batch.to_pylist():
            found = {
                name: FeatureValue(row[name], row[f"{name}__status"], row[f"{name}__event_timestamp"])
                for name in FEATURES
            }
            examples.append(example(found, row["event_timestamp"]))
            rows.append(row)
    return examples, rows


def labelled_spine() -> pa.Table:
    """Who, when, and whether a title followed within a day. The label comes from later rows; the features cannot.

    Viewers who keep their titles private have no label, and are left out.
    """
    watched: dict[str, list[datetime]] = {}
    for row in pq.read_table(ROOT / "data" / "last_genre.parquet").to_pylist():
        watched.setdefault(row["user_id"], []).append(row["event_timestamp"])
    return pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "event_timestamp": at,
                "watches": any(at < one <= at + DAY for one in watched.get(user, [])),
            }
            for at in (FIRST + number * DAY for number in range(DAYS))
            for user in sorted(watched)
        ]
    )


def main() -> None:
    """Train, score on viewers that the model has not seen, materialize, predict, compare."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMFEATURES_STATE"] = folder  # an online store of our own, gone afterwards
        os.environ["LLMFEATURES_ONLINE_URL"] = "sqlite"
        project = Project.load(ROOT)

        examples, rows = historical(project, labelled_spine())
        labels = [row["watches"] for row in rows]
        users = [row["user_id"] for row in rows]
        split = GroupShuffleSplit(n_splits=1, test_size=0.3, random_state=7)
        train, test = next(split.split(examples, labels, users))
        assert not {users[index] for index in train} & {users[index] for index in test}

        scores: list[float] = []
        model = make_pipeline(DictVectorizer(), MaxAbsScaler(), LogisticRegression(max_iter=1000))
        for one in (make_pipeline(DictVectorizer(), DummyClassifier()), model):
            one.fit([examples[index] for index in train], [labels[index] for index in train])
            chances = one.predict_proba([examples[index] for index in test])[:, 1]
            scores.append(float(roc_auc_score([labels[index] for index in test], chances)))
        print(f"trained on {len(train)} moments, tested on {len(test)} of other viewers")
        print(f"held-out ROC AUC {scores[1]:.3f}, a dummy's {scores[0]:.3f}")

        project.materialize()
        now = project.clock()
        everybody = sorted(set(users))
        found = project.get_online_features(FEATURES, [{"user_id": user} for user in everybody])
        online = {user: example(one, now) for user, one in zip(everybody, found, strict=True)}
        chance = model.predict_proba([online[VIEWER]])[0, 1]
        print(f"viewer {VIEWER}: {online[VIEWER]}")
        print(f"watches within a day: {chance:.0%}")

        moments = [{"user_id": user, "event_timestamp": now} for user in everybody]
        before, _ = historical(project, pa.Table.from_pylist(moments))
        same = sum(online[user] == one for user, one in zip(everybody, before, strict=True))
        print(f"online features equal the historical ones for {same} of {len(everybody)} viewers")
        project.close()


if __name__ == "__main__":
    main()
