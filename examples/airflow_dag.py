# Airflow is no dependency of this repository, and where it is not installed nothing of it has a type
# pyright: basic, reportMissingImports=false, reportUnusedExpression=false
"""Airflow 3: materialize what is due, then say whether a view is late all the same.

Copy this file into the folder of DAGs. Each view's cadence says when it is due, so that one schedule, as short as the
shortest cadence, serves all views; a run that finds nothing due ends at once. Needs ``llmfeatures`` on the workers, and
in their environment ``LLMFEATURES_PROJECT``, the project's folder, beside what its configuration takes from there, like
``LLMFEATURES_ONLINE_URL``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = os.environ.get("LLMFEATURES_PROJECT", "/srv/streaming")

with DAG(
    dag_id="llmfeatures_materialize",
    description="Brings what is due online, and fails when a view is late",
    schedule=timedelta(minutes=5),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a run takes all that came since the last one, whenever that was
    max_active_runs=1,
    tags=["llmfeatures"],
) as dag:
    materialize = BashOperator(
        task_id="materialize",
        bash_command='llmfeatures materialize --due --json --project "$LLMFEATURES_PROJECT"',
        env={"LLMFEATURES_PROJECT": PROJECT},
        append_env=True,
        retries=2,  # a run that failed or died is healed by the next
        retry_delay=timedelta(minutes=1),
        execution_timeout=timedelta(hours=1),
    )
    status = BashOperator(
        task_id="status",
        bash_command='llmfeatures status --json --project "$LLMFEATURES_PROJECT"',
        env={"LLMFEATURES_PROJECT": PROJECT},
        append_env=True,
        trigger_rule="all_done",
    )
    materialize >> status
