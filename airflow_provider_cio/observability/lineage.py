"""Lineage of a run: its two ends as datasets of OpenLineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_cio.pipeline.result import Result


class Dataset(NamedTuple):
    """One end of a run, as OpenLineage names it.

    :param size: in bytes, if it is known.
    """

    namespace: str
    name: str
    rows: int
    size: int | None = None


def namespace(scheme: str, base_url: str) -> str:
    """Return the namespace of the service behind a URL: ``customerio://api.customer.io``."""
    return f"{scheme}://{urlsplit(base_url).netloc}"


def customerio_datasets(conn_id: str, base_url: str, result: Result) -> list[Dataset]:
    """Return the lists that a run has read.

    :param conn_id: id of the Customer.io connection, which stands for the workspace.
    """
    counts = {kind: result.tally.read[kind] for kind in ("deliveries", "activities")}
    namespaced = namespace("customerio", base_url)
    return [Dataset(namespaced, f"{conn_id}.{kind}", rows) for kind, rows in counts.items() if rows]


def lineage(inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> OperatorLineage[Any, Any]:
    """Return both ends for OpenLineage's provider, which is installed if it asks."""
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
