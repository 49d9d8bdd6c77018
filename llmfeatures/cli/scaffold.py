# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The files of a new project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG = """\
[project]
name = {name}
registry = "features.py"
prompts = "prompts"

[online]
url = "sqlite"    # embedded, in .llmfeatures; or "redis://localhost:6379/0"
"""

REGISTRY = '''\
"""What the app knows about a user."""

from llmfeatures import Entity, Feature, FeatureView, ParquetSource, Registry

user = Entity("user", join_key="user_id")

profile = FeatureView(
    "profile",
    user,
    ParquetSource("data/profile.parquet", created_timestamp="created_timestamp"),
    [
        Feature("first_name", "str", description="As the user wrote it"),
        Feature("plan", "enum[free,pro]", description="What the user pays for"),
    ],
)

activity = FeatureView(
    "activity",
    user,
    ParquetSource("data/activity.parquet", created_timestamp="created_timestamp"),
    [Feature("sessions_7d", "int", description="Sessions in the last 7 days")],
    cadence="1d",
)

registry = Registry([profile, activity])
'''

PROMPT = """\
---
description: Greets a user who opens the app
features:
  first_name: {default: there}
  plan: {default: free}
  sessions_7d: {default: 0}
---
You greet the users of an app in one friendly sentence.
User: {{ first_name }}, plan {{ plan }}, {{ sessions_7d }} sessions in the last 7 days.
"""

CASES = """\
# cases of the prompt welcome: given values, and what it is to say; run by llmfeatures test
- id: on_the_pro_plan
  features: {first_name: Ada, plan: pro, sessions_7d: 9}
  expect: {contains: "User: Ada, plan pro, 9 sessions"}

- id: nothing_is_known
  expect: {contains: "User: there, plan free", not_contains: None}
"""

REQUESTS = """\
user_id,event_timestamp
ada,2026-01-06T09:00:00Z
ada,2026-01-13T09:00:00Z
grace,2026-01-13T09:00:00Z
"""

IGNORED = ".llmfeatures/"
GITIGNORE = ".gitignore"

_MONDAYS = ("2026-01-05T06:00:00Z", "2026-01-12T06:00:00Z")
_PROFILE: dict[str, list[Any]] = {
    "user_id": ["ada", "grace", "linus", "ada"],
    "first_name": ["Ada", "Grace", None, "Ada"],
    "plan": ["free", "pro", "free", "pro"],
    "event_timestamp": [_MONDAYS[0], _MONDAYS[0], _MONDAYS[0], _MONDAYS[1]],
}
_ACTIVITY: dict[str, list[Any]] = {
    "user_id": ["ada", "grace", "ada"],
    "sessions_7d": [2, 11, 9],
    "event_timestamp": [_MONDAYS[0], _MONDAYS[0], _MONDAYS[1]],
}


def scaffold(name: str) -> dict[str, bytes]:
    """The files of a new project by path, ``.gitignore`` apart."""
    return {
        "llmfeatures.toml": CONFIG.format(name=json.dumps(name)).encode(),
        "features.py": REGISTRY.encode(),
        "prompts/welcome.prompt.j2": PROMPT.encode(),
        "prompts/welcome.cases.yaml": CASES.encode(),
        "data/profile.parquet": _parquet(_PROFILE),
        "data/activity.parquet": _parquet(_ACTIVITY),
        "requests.csv": REQUESTS.encode(),
    }


def gitignore(folder: Path) -> bytes | None:
    """What ``.gitignore`` becomes; None when it says already what it should."""
    path = folder / GITIGNORE
    written = path.read_text(encoding="utf-8") if path.is_file() else ""
    if IGNORED.rstrip("/") in [line.strip().strip("/") for line in written.splitlines()]:
        return None
    return f"{written}{'' if written.endswith(chr(10)) or not written else chr(10)}{IGNORED}\n".encode()


def _parquet(data: dict[str, list[Any]]) -> bytes:
    """A Parquet file of rows that landed five minutes after they became true."""
    from datetime import datetime, timedelta

    import pyarrow as pa
    import pyarrow.parquet as pq

    moments = [datetime.fromisoformat(one) for one in data["event_timestamp"]]
    stamp = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            **data,
            "event_timestamp": pa.array(moments, stamp),
            "created_timestamp": pa.array([one + timedelta(minutes=5) for one in moments], stamp),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
