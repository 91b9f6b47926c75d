"""The two ends of a run as datasets of OpenLineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_cio.operators.destination import Destination
    from airflow_provider_cio.pipeline.result import Report


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
