"""Writes the sample's history: a streaming service from 2026-04-20 to 2026-05-07T22:59 UTC.

    python data/make_history.py [FOLDER]

Three jobs write three files, next to this script or into FOLDER:

- ``user_segment.parquet``: a nightly job at 02:00. It writes a user whose segment changed, and every user it has not
  looked at for five nights. A user who signed up less than a week ago has a row whose segment is null.
- ``watch_count_30d.parquet``: an hourly job, which writes a user only when the count changed.
- ``last_genre.parquet``: a stream, one row per watched title; the genre is null when the title has none.

Rows land minutes after they became true, or hours after: a hung hourly job, a slow night, devices that were offline.
The same pyarrow writes the same bytes on every run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

FIRST = datetime(2026, 4, 20, tzinfo=UTC)
LAST = datetime(2026, 5, 7, 22, 59, tzinfo=UTC)
WINDOW = timedelta(days=30)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

USERS = 298  # the two of `told` come on top
POWER_USER_FROM = 30  # titles in 30 days
RECOMPUTED_AFTER = timedelta(days=5)
SETTLED_AFTER = timedelta(days=7)
HOURLY_JOB_HUNG = (datetime(2026, 4, 29, 18, tzinfo=UTC), datetime(2026, 4, 29, 23, 40, tzinfo=UTC))
SLOW_NIGHT = datetime(2026, 5, 3, tzinfo=UTC)

# Each genre as often as it is picked: a viewer's own favourites come on top.
GENRES = ["drama"] * 5 + ["comedy"] * 5 + ["thriller"] * 3 + ["documentary"] * 2
GENRES += ["sci-fi"] * 2 + ["romance"] * 2 + ["crime"] * 3 + ["animation"] * 2


class Row(NamedTuple):
    """One row of a feature's file."""

    user_id: str
    value: str | int | None
    event: datetime
    created: datetime


@dataclass
class Viewer:
    """A user, and every title watched, oldest first, from a window before the first row on."""

    user_id: str
    signed_up: datetime
    watched: list[tuple[datetime, str | None]]
    private: bool  # opted out of per-title history: counted, but no genres

    def count(self, at: datetime) -> int:
        """The titles watched in the 30 days up to a moment."""
        return sum(1 for moment, _ in self.watched if at - WINDOW < moment <= at)

    def segment(self, at: datetime) -> str | None:
        """What the nightly job says at a moment; None when it cannot tell yet."""
        if at - self.signed_up < SETTLED_AFTER:
            return None
        return "power_user" if self.count(at) >= POWER_USER_FROM else "casual"


def viewer(random: Random, user_id: str) -> Viewer:
    """A user with made-up habits: most watch a title now and then, some two on most evenings."""
    kind = random.random()
    often = 0.62 if kind < 0.15 else 0.0 if kind > 0.97 else 0.04 + 0.20 * random.random()  # evenings with a title
    is_new = random.random() < 0.1
    signed_up = FIRST + random.randrange(17 * 24 * 60) * timedelta(minutes=1) if is_new else FIRST - 300 * DAY
    favourites = [random.choice(GENRES) for _ in range(4)] * 4
    watched: list[tuple[datetime, str | None]] = []
    day = FIRST - WINDOW
    while day < LAST:
        if random.random() < often:
            moment = day + timedelta(hours=17, seconds=random.randrange(5 * 3600))
            for _ in range(random.choice([1, 2, 2, 3] if often > 0.5 else [1, 1, 1, 2])):
                genre = None if random.random() < 0.02 else random.choice(GENRES + favourites)
                if signed_up <= moment <= LAST:
                    watched.append((moment, genre))
                moment += timedelta(seconds=25 * 60 + random.randrange(80 * 60))
        day += DAY
    return Viewer(user_id, signed_up, watched, private=random.random() < 0.06)


def segment_rows(random: Random, one: Viewer) -> list[Row]:
    """The rows of the nightly job."""
    rows: list[Row] = []
    night = FIRST + 2 * HOUR
    # not everybody is due on the same night
    due = night if one.signed_up < FIRST and random.random() < 0.5 else night + random.randrange(5) * DAY
    while night <= LAST:
        if one.signed_up <= night:
            value = one.segment(night)
            changed = bool(rows) and rows[-1].value != value
            if changed or night >= due or night - one.signed_up < DAY:
                delay = timedelta(minutes=10, seconds=random.randrange(900))
                if night - 2 * HOUR == SLOW_NIGHT:
                    delay += 7 * HOUR
                rows.append(Row(one.user_id, value, night, night + delay))
                due = night + RECOMPUTED_AFTER
        night += DAY
    return rows


def count_rows(random: Random, one: Viewer) -> list[Row]:
    """The rows of the hourly job."""
    rows: list[Row] = []
    hour = FIRST
    while hour <= LAST:
        value = one.count(hour)
        if value != (rows[-1].value if rows else 0):
            created = hour + timedelta(minutes=4, seconds=random.randrange(300))
            began, ended = HOURLY_JOB_HUNG
            if began <= hour <= ended:
                created = ended + timedelta(seconds=random.randrange(600))
            rows.append(Row(one.user_id, value, hour, created))
        hour += HOUR
    return rows


def genre_rows(random: Random, one: Viewer) -> list[Row]:
    """The rows of the stream."""
    rows: list[Row] = []
    for moment, genre in one.watched:
        delay = timedelta(seconds=20 + random.randrange(160))
        if random.random() < 0.03:  # watched on a device without a network
            delay = timedelta(hours=2, seconds=random.randrange(16 * 3600))
        if moment >= FIRST and not one.private:
            rows.append(Row(one.user_id, genre, moment, moment + delay))
    return rows


def told() -> tuple[list[Row], list[Row], list[Row]]:
    """The users whom the documentation tells about, and all of their rows."""
    noon = datetime(2026, 5, 5, 12, tzinfo=UTC)
    night = datetime(2026, 5, 7, 22, tzinfo=UTC)
    evening = datetime(2026, 5, 7, 20, tzinfo=UTC)
    return (
        [
            Row("8a2f", "casual", noon, noon),
            Row("8a2f", "power_user", night, night),
            Row("b13c", "casual", evening, evening),
        ],
        [Row("8a2f", 22, noon, noon), Row("8a2f", 47, night, night), Row("b13c", 5, evening, evening)],
        [Row("8a2f", "documentary", night, night), Row("b13c", "thriller", evening, evening)],
    )


def user_ids(random: Random) -> list[str]:
    """Ids of four hex digits, each with a letter that no number has."""
    found: set[str] = {"8a2f", "b13c"}
    ids: list[str] = []
    while len(ids) < USERS:
        user_id = f"{random.randrange(16**4):04x}"
        if user_id not in found and set(user_id) & set("abcdf"):
            found.add(user_id)
            ids.append(user_id)
    return ids


def write(path: Path, feature: str, dtype: pa.DataType, rows: list[Row]) -> None:
    """One file, oldest event first; a row that has not landed yet is not in it."""
    rows = sorted((row for row in rows if row.created <= LAST), key=lambda row: (row.event, row.user_id))
    stamp = pa.timestamp("us", tz="UTC")
    table = pa.table(
        {
            "user_id": pa.array([row.user_id for row in rows], pa.string()),
            feature: pa.array([row.value for row in rows], dtype),
            "event_timestamp": pa.array([row.event for row in rows], stamp),
            "created_timestamp": pa.array([row.created for row in rows], stamp),
        }
    )
    pq.write_table(table, path, compression="zstd")


def main(folder: Path) -> None:
    """Writes the three files into a folder."""
    random = Random(7)
    segments, counts, genres = told()
    for user_id in user_ids(random):
        one = viewer(random, user_id)
        segments += segment_rows(random, one)
        counts += count_rows(random, one)
        genres += genre_rows(random, one)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "user_segment.parquet", "user_segment", pa.string(), segments)
    write(folder / "watch_count_30d.parquet", "watch_count_30d", pa.int64(), counts)
    write(folder / "last_genre.parquet", "last_genre", pa.string(), genres)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
