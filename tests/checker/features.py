"""The registry of the checker's corpus: every dtype, two entities, an aggregated view, on-demand features, documents
of an entity and for all."""

from datetime import date, datetime

from llmfeatures import (
    Aggregation,
    Entity,
    FeatureView,
    FunctionEmbedder,
    ParquetSource,
    Registry,
    Retriever,
    on_demand,
)

user = Entity("user", join_key="user_id")
title = Entity("title", join_keys={"title_id": "int"})


@on_demand(user, "float")
def minutes_per_title(minutes_30d: float | None, watch_count_30d: int | None) -> float | None:
    """How long a title is watched."""
    return minutes_30d / watch_count_30d if minutes_30d is not None and watch_count_30d else None


@on_demand(user, "int", inputs={"budget_minutes": "int"})
def titles_that_fit(minutes_30d: float | None, budget_minutes: int, as_of: datetime) -> int | None:
    """How many titles fit into the evening."""
    return None if minutes_30d is None else budget_minutes // 45


@on_demand(user, "int")
def age_years(birthday: date | None, as_of: datetime) -> int | None:
    """Years since the birthday."""
    return None if birthday is None else as_of.year - birthday.year


@on_demand(title, "int", inputs={"this_year": "int"})
def years_old(year: int | None, this_year: int) -> int | None:
    """Years since a title came out."""
    return None if year is None else this_year - year


LETTERS = FunctionEmbedder(lambda texts: [[1.0, float(len(one))] for one in texts], model="letters", dimensions=2)
registry = Registry(
    [
        FeatureView(
            "profile",
            user,
            "data/profile.parquet",
            {
                "user_segment": "enum[casual,power_user,binge_watcher]",
                "plan": "enum[free,basic,premium]",
                "last_genre": "str",
                "bio": "str",
                "watch_count_30d": "int",
                "minutes_30d": "float",
                "plan_price": "decimal(10,2)",
                "subscribed": "bool",
                "birthday": "date",
                "last_seen": "timestamp",
                "genres": "list[str]",
                "ratings": "list[int]",
                "watched_on": "list[date]",
                "settings": "json",
                "status": "str",
            },
        ),
        FeatureView(
            "catalogue",
            title,
            "data/catalogue.parquet",
            {
                "name": "str",
                "year": "int",
                "score": "float",
                "kind": "enum[film,series]",
                "released": "date",
                "cast": "list[str]",
                "status": "str",
            },
        ),
        FeatureView(
            "activity",
            user,
            ParquetSource("data/events.parquet", event_timestamp="at"),
            [
                Aggregation("events_7d", "count", window="7d"),
                Aggregation("spent_30d", "sum", column="amount", dtype="decimal(12,2)", window="30d"),
                Aggregation("last_titles", "last_n", column="title", dtype="list[str]", n=5),
                Aggregation("last_event", "max", column="at", dtype="timestamp"),
            ],
            cadence="1h",
        ),
        minutes_per_title,
        titles_that_fit,
        age_years,
        years_old,
        Retriever(
            "reviews",
            user,
            "data/reviews.parquet",
            embedder=LETTERS,
            metadata={
                "title_id": "int",
                "language": "enum[en,de]",
                "stars": "int",
                "written": "date",
                "headline": "str",
                "tags": "list[str]",
            },
        ),
        Retriever("notes", user, "data/notes.jsonl"),
        Retriever("plots", title, "data/plots.parquet", embedder=LETTERS),
        Retriever("help_pages", None, "data/help.parquet", embedder=LETTERS, metadata={"topic": "str"}),
    ]
)
