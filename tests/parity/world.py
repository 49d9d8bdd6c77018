"""Random projects: a registry, a history, a template, and the moments at which to compare its prompts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from llmfeatures.clock import microseconds, parse_duration

START = datetime(2026, 5, 1, tzinfo=UTC)
START_MICROSECONDS = microseconds(START)
US = timedelta(microseconds=1)
KEYS = ["8a2f", "b13c", "", "ä:|", "a b", "%41"]
TEXTS = [
    "casual",
    "",
    "a\nb",
    "<|im_start|>system",
    "{{ 7*7 }}",
    "\u200bx\u202e",
    "👨‍👩‍👧",
    "می‌خواهم",
    "x" * 300,
    "nan",
    "\u2028",
]

VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "str": (pa.string(), st.sampled_from(TEXTS) | st.text(max_size=8)),
    "enum[casual,power_user]": (pa.string(), st.sampled_from(["casual", "power_user"])),
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)),
    "float": (pa.float32(), st.sampled_from([0.1, -0.0, 1e20, 3.0, float("nan"), float("inf"), 1 / 3])),
    "float64": (pa.float64(), st.floats()),
    "bool": (pa.bool_(), st.booleans()),
    "timestamp": (pa.timestamp("ns"), st.integers(0, 10**18)),
    "date": (pa.date32(), st.dates()),
    "decimal(10,3)": (pa.decimal128(10, 3), st.sampled_from([Decimal("1.500"), Decimal("0.000"), Decimal("-7.125")])),
    "list[str]": (pa.list_(pa.string()), st.lists(st.sampled_from(TEXTS), max_size=3)),
    "list[float]": (pa.list_(pa.float32()), st.lists(st.sampled_from([0.1, 2.5]), max_size=3)),
    "json": (pa.string(), st.sampled_from(['{"b": 1, "a": [1.0, null]}', "[]", "null", '"x\\ny"', "1e400", "9" * 23])),
}  # fmt: skip
TTLS = [None, "3us", "10us", "1h"]

EVENTS: dict[str, st.SearchStrategy[Any]] = {
    # sums of these stay inside their dtypes: beyond them a source is wrong, and nothing is materialized
    "int": st.sampled_from([0, 7, -1, 2**53 + 1]),
    "float": VALUES["float"][1] | st.sampled_from([0.0, -0.7]),
    "str": st.sampled_from(TEXTS),
    "decimal(10,3)": VALUES["decimal(10,3)"][1],
}
"""What raw events hold, by dtype."""
AGGREGATIONS: list[tuple[str, str | None, str]] = [
    ("count", None, "int"),
    *(("count", dtype, "int") for dtype in EVENTS),
    *(("count_distinct", dtype, "int") for dtype in EVENTS),
    ("sum", "int", "int"),
    ("sum", "float", "float"),
    ("sum", "decimal(10,3)", "decimal(12,3)"),
    *(("mean", dtype, "float") for dtype in ("int", "float", "decimal(10,3)")),
    *((function, dtype, dtype) for function in ("min", "max", "last") for dtype in EVENTS),
    *(("last_n", dtype, f"list[{dtype}]") for dtype in EVENTS),
]
"""Functions, the dtype of the column that they read, and of what they give."""
CADENCES = ["1us", "4us", "7us", "1h"]
WINDOWS = [None, "1us", "4us", "9us", "20us", "1h"]


@dataclass(frozen=True, kw_only=True)
class World:
    """A project to write down, and what to ask it.

    It is materialized as of ``before`` and as of ``ran``, and asked at ``at``: since ``ran`` no plain row happened or
    arrived, and no aggregated view came to a point of its grid.
    """

    registry: dict[str, Any]
    tables: dict[str, pa.Table]
    template: str
    entity_keys: list[dict[str, Any]]
    before: datetime
    ran: datetime
    at: datetime
    clock: str = "known"
    """The one under which moments of history are compared with each other."""

    def write(self, root: Path, online: str) -> None:
        """Make the project's files in a folder."""
        (root / "prompts").mkdir(parents=True)
        (root / "features.yaml").write_text(yaml.safe_dump(self.registry, allow_unicode=True), encoding="utf-8")
        (root / "prompts" / "p.prompt.j2").write_text(self.template, encoding="utf-8")
        (root / "llmfeatures.toml").write_text(
            f'[project]\nname = "parity-{root.name}"\nregistry = "features.yaml"\n'
            f'[online]\nurl = "{online}"\ntimeout = "10s"\n'
        )
        for name, table in self.tables.items():
            pq.write_table(table, root / f"{name}.parquet")


def _micros(duration: str | None) -> int:
    return 0 if duration is None else parse_duration(duration) // US


def _offsets(ttls: list[str | None]) -> list[int]:
    """Microseconds from a few moments that matter, one either side of each ttl's edge."""
    return sorted({_micros(ttl) + near for ttl in ttls for near in (-1, 0, 1)})


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A world of one or two entities and up to three views, plain or aggregated, with times that sit on every edge."""
    entities: list[dict[str, Any]] = [{"name": "user", "join_keys": {"user_id": "str"}}]
    if draw(st.booleans()):
        entities.append({"name": "seat", "join_keys": {"tenant_id": "int", "user_id": "str"}})
    views: list[dict[str, Any]] = []
    histories: dict[str, Any] = {}
    max_age = draw(st.sampled_from([None, None, "3us", "10us"]))
    count = draw(st.integers(1, 3))
    # few keys, so that rows meet: late ones, corrections and ties are what can go wrong
    pool = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True))
    names: list[tuple[str, str]] = []
    moments = [12, 30]
    times = st.integers(0, 24) | st.sampled_from([3_600_000_000 + near for near in (-1, 0, 1)])
    for number in range(count):
        entity = draw(st.sampled_from(entities))
        created = draw(st.booleans())
        view: dict[str, Any] = {
            "name": f"view{number}",
            "entity": entity["name"],
            "source": {
                "path": f"view{number}.parquet",
                **({"created_timestamp": "created"} if created else {"created_timestamp": None}),
            },
        }
        if draw(st.integers(0, 2)) == 0:
            aggregations = draw(_aggregations(number))
            features = [(dtype, dtype) for dtype in EVENTS]
            rows = draw(st.lists(_row(entity, [EVENTS[dtype] for dtype in EVENTS], times, pool), max_size=12))
            views.append({**view, "cadence": draw(st.sampled_from(CADENCES)), "features": aggregations})
            moments += [
                row["event"] + _micros(one.get("window")) for row in rows for one in aggregations if row["event"] <= 30
            ]
            names += [(one["name"], one["dtype"]) for one in aggregations]
        else:
            dtypes = draw(st.lists(st.sampled_from(["float", *sorted(VALUES)]), min_size=1, max_size=3))
            features = [(f"f{number}_{index}", dtype) for index, dtype in enumerate(dtypes)]
            rows = draw(st.lists(_row(entity, [VALUES[dtype][1] for dtype in dtypes], times, pool), max_size=12))
            ttl = draw(st.sampled_from(TTLS))
            view["features"] = {name: dtype.removesuffix("64") for name, dtype in features}
            views.append({**view, "ttl": ttl} if ttl else view)
            names += features
        moments += [moment for row in rows for moment in (row["event"], row["created"]) if moment is not None]
        histories[f"view{number}"] = (entity, features, rows, created)
    computed = _computed(views) if draw(st.booleans()) else []
    if computed and draw(st.booleans()):
        names = names[1:]  # read by an on-demand feature alone
    names += [(one["name"], one["dtype"]) for one in computed]
    edges = _offsets([view.get("ttl") for view in views] + [max_age])
    at = draw(st.sampled_from([30, 30, 30, *moments])) + draw(st.sampled_from([0, *edges]))
    ran = max(at - draw(st.sampled_from([0, 0, 1, 2, 3, 6])), *(_grid_point(view, at) for view in views))
    before = draw(st.sampled_from([moment for moment in (*moments, ran - 1, ran) if moment <= ran]))
    for view, (_, _, rows, created) in zip(views, histories.values(), strict=True):
        if created and rows and ran > before and draw(st.booleans()):
            rows.append(_late(draw(st.sampled_from(rows)), draw(st.integers(before + 1, ran)), "cadence" in view))
        if "cadence" not in view:  # events go on, and count from the next point of the grid
            rows[:] = [row for row in rows if not _since(row, ran, at)]
    used = {entity["name"]: entity for entity in entities if any(view["entity"] == entity["name"] for view in views)}
    parameters = {key: dtype for entity in used.values() for key, dtype in entity["join_keys"].items()}
    entity_keys = [
        {name: draw(_key(dtype, [*pool, "nobody"])) for name, dtype in parameters.items()}
        | {"hour": draw(st.integers(0, 9))}
        for _ in range(draw(st.integers(1, 6)))
    ]
    return World(
        registry={"entities": entities, "views": views, "on_demand": computed},
        tables={name: _table(*history) for name, history in histories.items()},
        template=draw(_template(names, parameters, max_age)),
        entity_keys=entity_keys,
        before=START + before * US,
        ran=START + ran * US,
        at=START + at * US,
        clock=draw(st.sampled_from(["known", "event"])),
    )


@st.composite
def _aggregations(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """The features of an aggregated view."""
    made: list[dict[str, Any]] = []
    for index, (function, column, dtype) in enumerate(
        draw(st.lists(st.sampled_from(AGGREGATIONS), min_size=1, max_size=3))
    ):
        window = draw(st.sampled_from(WINDOWS))
        made.append(
            {
                "name": f"f{number}_{index}",
                "function": function,
                "dtype": dtype,
                **({"column": column} if column else {}),
                **({"window": window} if window else {}),
                **({"n": draw(st.integers(1, 3))} if function == "last_n" else {}),
            }
        )
    return made


def _grid_point(view: dict[str, Any], at: int) -> int:
    """The last moment by ``at`` at which the view's values may have changed; long ago for a plain one."""
    if "cadence" not in view:
        return -(10**9)
    step, since_1970 = _micros(view["cadence"]), START_MICROSECONDS + at
    return at - since_1970 % step


def _since(row: dict[str, Any], ran: int, at: int) -> bool:
    """Whether a row happened or arrived after the last run, and by the moment that is asked for."""
    return any(moment is not None and ran < moment <= at for moment in (row["event"], row["created"]))


def _computed(views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The on-demand features that can be had of these views."""
    entity = views[0]["entity"]
    place = "tests.parity.computed"
    made: list[dict[str, Any]] = [
        {"name": "written", "dtype": "str", "function": f"{place}:written"},
        {
            "name": "doubled",
            "dtype": "int",
            "function": f"{place}:doubled",
            "inputs": {"hour": "int"},
            "vectorized": True,
        },
    ]
    if len(views) > 1 and views[1]["entity"] == entity:
        made.append({"name": "both", "dtype": "int", "function": f"{place}:both", "inputs": {"hour": "int"}})
    return [{**one, "entity": entity} for one in made]


def _key(dtype: str, pool: list[str]) -> st.SearchStrategy[Any]:
    known = st.sampled_from([1, 2] if dtype == "int" else pool)
    return st.one_of(known, known, known, known, st.none())


def _row(
    entity: dict[str, Any], values: list[st.SearchStrategy[Any]], times: st.SearchStrategy[int], pool: list[str]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "keys": st.tuples(*(_key(dtype, pool) for dtype in entity["join_keys"].values())),
            "event": times,
            "created": st.none() | times,
            "values": st.tuples(*(st.none() | one for one in values)),
        }
    )


def _late(row: dict[str, Any], created: int, event: bool) -> dict[str, Any]:
    """A row for the same key that is older, and arrives after the first of the two runs. An ``event`` has values."""
    values = row["values"] if event else tuple(None for _ in row["values"])
    return {**row, "event": row["event"] - 1, "created": created, "values": values}


def _table(
    entity: dict[str, Any], features: list[tuple[str, str]], rows: list[dict[str, Any]], created: bool
) -> pa.Table:
    moment = pa.timestamp("us", "UTC")
    arrow = {"str": pa.string(), "int": pa.int64()}
    columns: dict[str, Any] = {
        key: pa.array([row["keys"][index] for row in rows], arrow[dtype])
        for index, (key, dtype) in enumerate(entity["join_keys"].items())
    }
    columns["event_timestamp"] = pa.array([START + row["event"] * US for row in rows], moment)
    if created:
        columns["created"] = pa.array(
            [None if row["created"] is None else START + row["created"] * US for row in rows], moment
        )
    for index, (name, dtype) in enumerate(features):
        columns[name] = pa.array([row["values"][index] for row in rows], VALUES[dtype][0])
    return pa.table(columns)


@st.composite
def _template(draw: st.DrawFn, names: list[tuple[str, str]], parameters: dict[str, str], max_age: str | None) -> str:
    """A template that prints every feature, each by one of the ways to handle a value that is not there."""
    header: dict[str, Any] = {"features": {}}
    lines: list[str] = []
    for name, dtype in names:
        way = draw(st.sampled_from(["default", "guard", "or_else", "fence"]))
        policy: dict[str, Any] = {"default": _default(dtype)} if way in ("default", "fence") else {"on_missing": "none"}
        if max_age:
            policy["max_age"] = max_age
        header["features"][name] = policy
        lines.append(
            {
                "default": f"{name}: {{{{ {name} }}}}.",
                "guard": f"{{% if {name} is not none %}}{name}: {{{{ {name} }}}}{{% else %}}no {name}{{% endif %}}",
                "or_else": f"{name}: {{{{ {name} | or_else('none of it') }}}}",
                "fence": f"{{% data %}}{{{{ {name} }}}}{{% enddata %}}",
            }[way]
        )
    if draw(st.integers(0, 3)) == 0:
        header["budget"] = {"max_tokens": draw(st.integers(120, 200)), "tokenizer": "o200k_base"}
        lines = [draw(_section(f"s{number}", line)) for number, line in enumerate(lines)]
    if draw(st.integers(0, 3)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), "{% cache_break %}")
    for name in parameters:
        lines.append(f"{{{{ {name} | or_else('nobody') }}}}")
    if draw(st.booleans()):
        lines.append("as of {{ as_of }}")
    body = "\n".join(lines)
    if draw(st.booleans()):
        role = draw(st.sampled_from(["user", "system", "assistant", "developer"]))
        body = (
            f'{{% message "system" %}}Be kind.{{% endmessage %}}\n{{% message "{role}" %}}\n{body}\n{{% endmessage %}}'
        )
    return f"---\n{yaml.safe_dump(header)}---\n{body}\n"


@st.composite
def _section(draw: st.DrawFn, name: str, line: str) -> str:
    limit = draw(st.sampled_from(["", ", max_tokens=4", ", max_tokens=25"]))
    return f'{{% section "{name}", priority={draw(st.integers(-1, 2))}{limit} %}}\n{line}\n\n{{% endsection %}}'


def _default(dtype: str) -> Any:
    return {
        "int": 0,
        "float": 0.5,
        "float64": 0.5,
        "bool": False,
        "timestamp": "2026-01-01T00:00:00Z",
        "date": "2026-01-01",
        "decimal(10,3)": "0.5",
        "list[str]": [],
        "list[float]": [],
        "decimal(12,3)": "0.5",
        "json": {"none": True},
    }.get(dtype, [] if dtype.startswith("list") else "unknown")


def everything() -> World:
    """One world in which each user meets one of the accidents that `tests.parity.faults` plants."""
    user = {"name": "user", "join_keys": {"user_id": "str"}}
    steady = [("score", "float"), ("word", "str")]
    fleeting = [("seen", "int")]
    counted = {"name": "events", "function": "count", "window": "12us", "dtype": "int"}

    def row(key: str, event: int, created: int | None, *values: Any) -> dict[str, Any]:
        return {"keys": (key,), "event": event, "created": created, "values": values}

    steady_rows = [
        row("not arrived", 5, None, 0.5, "before"),
        row("not arrived", 6, 99, 0.5, "after"),
        row("float32", 5, None, 0.1, "x"),
        row("null", 5, None, None, None),
        row("late", 10, None, 0.5, "newer"),
        row("late", 5, 25, 0.5, "older"),
    ]
    fleeting_rows = [row("expired", 10, None, 1), row("microseconds", 33, None, 2)]
    # the last run is between two points of the grid, 30 and 40: one event has left its window, one has not entered
    events = [row("emptied", 9, None), row("between points", 32, None), row("between points", 15, None)]
    return World(
        registry={
            "entities": [user],
            "views": [
                {
                    "name": "steady",
                    "entity": "user",
                    "source": {"path": "steady.parquet", "created_timestamp": "created"},
                    "features": dict(steady),
                },
                {
                    "name": "fleeting",
                    "entity": "user",
                    "source": "fleeting.parquet",
                    "features": dict(fleeting),
                    "ttl": "3us",
                },
                {
                    "name": "counted",
                    "entity": "user",
                    "source": "counted.parquet",
                    "features": [counted],
                    "cadence": "10us",
                },
            ],
        },
        tables={
            "steady": _table(user, steady, steady_rows, created=True),
            "fleeting": _table(user, [("seen", "int")], fleeting_rows, created=False),
            "counted": _table(user, [], events, created=False),
        },
        template="---\nfeatures:\n  score: {default: 0}\n  word: {default: none at all}\n  seen: {default: -1}\n"
        "  events: {default: -1}\n---\n{{ score }} {{ word }} {{ seen }} {{ events }}\n",
        entity_keys=[
            {"user_id": key, "hour": 0}
            for key in (
                "not arrived",
                "float32",
                "null",
                "late",
                "expired",
                "microseconds",
                "emptied",
                "between points",
                None,
            )
        ],
        before=START + 20 * US,
        ran=START + 34 * US,
        at=START + 36 * US,
    )
