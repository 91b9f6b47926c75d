"""The ways from Airflow's UI to the page, and the options that switch them."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import BaseOperatorLink

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.values import flag_in

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: Address of the page. It is relative, because every page of Airflow's UI has a base that knows the prefix.
_PAGE = "cio-flow/"
_OPERATORS = (CustomerIOToSegmentOperator, CustomerIOToWarehouseOperator)


class FlowLink(BaseOperatorLink):
    """Button on the task instances of both operators.

    The plugin registers it, not the operators: so Airflow's API server makes the address when somebody looks. A link
    of an operator would cost each run one more request, for an XCom.
    """

    name = "What flowed"
    operators: ClassVar[list[type[BaseOperator]]] = list(_OPERATORS)

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the page for the DAG and the task."""
        return f"{_PAGE}?{urlencode({'dag_id': ti_key.dag_id, 'task_id': ti_key.task_id})}"


def is_on() -> bool:
    """Return False only if `[customerio] flow` is false. Any value that can't be read counts as true."""
    return flag_in(conf.get("customerio", "flow", fallback="true")) is not False


def external_views() -> list[dict[str, Any]]:
    """Return an entry under *Browse*, and the tabs of DAGs and tasks.

    Airflow 3.4 shows a tab only where `applies_to` fits. Airflow 3.1 to 3.3 would show it on every DAG and every task.
    """
    nav = {
        "name": "Customer.io events",
        "href": _PAGE,
        "destination": "nav",
        "category": "browse",
        "url_route": "customerio-events",
        "icon": f"{_PAGE}icon.svg",
    }
    if not (_has_applies_to() or _tab_everywhere()):
        return [nav]
    dag = {
        "name": "Customer.io",
        "href": f"{_PAGE}?dag_id={{DAG_ID}}",
        "destination": "dag",
        "url_route": "customerio",
        "icon": f"{_PAGE}icon.svg",
        "applies_to": {"tags.name": ["customerio"]},
    }
    task = dag | {
        "href": f"{_PAGE}?dag_id={{DAG_ID}}&task_id={{TASK_ID}}",
        "destination": "task",
        "url_route": "customerio-task",
        "applies_to": {"operator_name": [operator.__name__ for operator in _OPERATORS]},
    }
    return [nav, dag, task]


def _has_applies_to() -> bool:
    major, minor = version("apache-airflow-core").split(".")[:2]
    return (int(major), int(minor)) >= (3, 4)


def _tab_everywhere() -> bool:
    """Return True only if `[customerio] dag_tab` is true."""
    return flag_in(conf.get("customerio", "dag_tab", fallback="false")) is True
