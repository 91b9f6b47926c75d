"""OpenLineage datasets of a run: its source and its destination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset as OpenLineageDataset

    from airflow_provider_cio.pipeline.result import Result


class Dataset(NamedTuple):
    """Source or destination of a run in OpenLineage.

    :param size: bytes, if known.
    """

    namespace: str
    name: str
    rows: int
    size: int | None = None


def namespace(scheme: str, base_url: str) -> str:
    """Return the namespace of a service, such as ``customerio://api.customer.io``."""
    return f"{scheme}://{urlsplit(base_url).netloc}"


def customerio_datasets(conn_id: str, base_url: str, result: Result) -> list[Dataset]:
    """Return the lists of Customer.io that a run has read, ``deliveries`` and ``activities``.

    :param conn_id: names the workspace in the datasets.
    """
    host = namespace("customerio", base_url)
    read = result.tally.read
    return [Dataset(host, f"{conn_id}.{kind}", read[kind]) for kind in ("deliveries", "activities") if read[kind]]


def dataset_of_asset(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """Return the dataset of an asset, whose URI is the namespace and the name of a dataset of a run.

    OpenLineage's provider calls this for assets whose scheme is one of this provider.
    """
    from openlineage.client.event_v2 import Dataset as OpenLineageDataset

    uri = urlsplit(asset.uri)
    return OpenLineageDataset(namespace=f"{uri.scheme}://{uri.netloc}", name=uri.path.removeprefix("/"))


def lineage(inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> OperatorLineage[Any, Any]:
    """Return both ends in the form of OpenLineage's provider. Only this provider calls it, so it is installed."""
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
