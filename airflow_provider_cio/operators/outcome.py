"""What the rest of Airflow learns of a run that has read and sent all it could: metrics, the events of assets, and
lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.metrics import count, took

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_cio.operators.destination import Destination
    from airflow_provider_cio.report import Report


def count_run(report: Report, seconds: float, tags: Mapping[str, str]) -> None:
    """Report a run's counts as metrics, once, for all its tries. `docs/operator.md` lists them.

    :param seconds: that this try took.
    """
    for collection, n in report.events.items():
        count("events", n, {**tags, "collection": CATALOG[collection].table})
    for name, counts in (("skipped", report.skipped), ("refused", report.refused)):
        for reason, n in counts.items():
            count(name, n, {**tags, "reason": reason})
    for name in ("requests", "retried", "rate_limited"):
        count(name, report.work[name], tags)
    took("duration", seconds, tags)


def describe_outlets(outlets: Iterable[Any], result: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Put the run's result into the event of each asset among its outlets, for the DAGs that are scheduled on it.

    The partition of the run, if it has one, is put there by Airflow (3.2 or newer). Which asset is behind an alias is
    not known here: its event stays as it is.
    """
    from airflow.sdk import Asset
    from airflow.sdk.definitions.asset import AssetRef

    events = context.get("outlet_events")
    for outlet in outlets:
        if events is not None and isinstance(outlet, Asset | AssetRef):
            events[outlet].extra.update(result)


class Dataset(NamedTuple):
    """One end of a run, as OpenLineage names it.

    :param size: in bytes, if it is known.
    """

    namespace: str
    name: str
    rows: int
    size: int | None = None


#: What was read, and what was written.
Ends = tuple[Sequence[Dataset], Sequence[Dataset]]


def namespace(scheme: str, base_url: str) -> str:
    """Of what is behind a URL: ``customerio://api.customer.io``."""
    return f"{scheme}://{urlsplit(base_url).netloc}"


def ends_of(origin: tuple[str, str], destination: Destination, report: Report) -> Ends:
    """The two ends of a run that is done.

    :param origin: id of the Customer.io connection, which stands for the workspace, and base URL.
    """
    conn_id, base_url = origin
    lists = [kind for kind in ("deliveries", "activities") if report.tally.read[kind]]
    read = [Dataset(namespace("customerio", base_url), f"{conn_id}.{kind}", report.tally.read[kind]) for kind in lists]
    return read, destination.datasets(report)


def lineage(inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> OperatorLineage[Any, Any]:
    """For OpenLineage's provider, which is there when it asks."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as read
    from openlineage.client.facet_v2 import output_statistics_output_dataset as written

    return OperatorLineage(
        inputs=[
            InputDataset(
                one.namespace,
                one.name,
                inputFacets={"inputStatistics": read.InputStatisticsInputDatasetFacet(rowCount=one.rows)},
            )
            for one in inputs
        ],
        outputs=[
            OutputDataset(
                one.namespace,
                one.name,
                outputFacets={
                    "outputStatistics": written.OutputStatisticsOutputDatasetFacet(rowCount=one.rows, size=one.size)
                },
            )
            for one in outputs
        ],
    )
