"""Names that tests need, from where each version of Airflow has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import airflow

#: The version of Airflow, as far as features go: ``(3, 2)``.
AIRFLOW = tuple(map(int, airflow.__version__.split(".")[:2]))

if TYPE_CHECKING or AIRFLOW >= (3, 2):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import CronDataIntervalTimetable
else:
    from airflow.models.dagbag import DagBag
    from airflow.timetables.interval import CronDataIntervalTimetable

if TYPE_CHECKING or AIRFLOW >= (3, 1):
    from airflow.sdk._shared.secrets_masker import redact
    from airflow.sdk.execution_time.timeout import timeout
else:
    from airflow.sdk.execution_time.secrets_masker import redact
    from airflow.utils.timeout import timeout

#: Texts that Airflow shows in place of a secret. The last one is from the forms of Airflow 2.
MASKS = ("***", "********", "<redaction-failed>", "RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER")

__all__ = ["AIRFLOW", "MASKS", "CronDataIntervalTimetable", "DagBag", "redact", "timeout"]
