"""What the streaming service knows about a viewer. `features.yaml` says the same."""

from llmfeatures import Entity, Feature, FeatureView, ParquetSource, PushSource, Registry

user = Entity("user", join_key="user_id", description="A viewer of the streaming service")

segment = FeatureView(
    "segment",
    user,
    ParquetSource(
        "data/user_segment.parquet", event_timestamp="event_timestamp", created_timestamp="created_timestamp"
    ),
    [
        Feature(
            "user_segment",
            "enum[casual,power_user]",
            description="How much the viewer watches; null in the first week",
        )
    ],
    cadence="1d",
    lateness="12h",
    description="The nightly segmentation",
    owner="growth",
)

activity = FeatureView(
    "activity",
    user,
    ParquetSource(
        "data/watch_count_30d.parquet", event_timestamp="event_timestamp", created_timestamp="created_timestamp"
    ),
    [Feature("watch_count_30d", "int", description="Titles watched in the last 30 days")],
    cadence="1h",
    lateness="1h",
    description="Hourly counts; a viewer has a new row only when the count changed",
    owner="data-platform",
)

taste = FeatureView(
    "taste",
    user,
    PushSource(
        batch=ParquetSource(
            "data/last_genre.parquet", event_timestamp="event_timestamp", created_timestamp="created_timestamp"
        )
    ),
    [Feature("last_genre", "str", description="Genre of the last watched title; null when the title has none")],
    lateness="1h",
    description="Pushed by the player whenever a title was watched",
    owner="growth",
)

registry = Registry([segment, activity, taste])
