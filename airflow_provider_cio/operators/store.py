"""The checkpoint in Airflow's task state store, which Airflow has since 3.3."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_cio.exceptions import TryAgainLaterError

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_cio.sources.checkpoint import Checkpoint

CHECKPOINT_KEY = "customerio_to_segment"


class CheckpointStore:
    """:param store: Airflow's, or None if there is none: then nothing is loaded or saved.
    :param delivered: what became of the events of a finished run.
    """

    def __init__(self, store: Any, log: Logger, delivered: str = "sent") -> None:
        self._store = store
        self._log = log
        self._delivered = delivered

    def load(self, fingerprint: str) -> Checkpoint:
        """What earlier tries with this fingerprint have done."""
        from airflow_provider_cio.sources.checkpoint import Checkpoint

        state = None
        if self._store:
            try:
                state = self._store.get(CHECKPOINT_KEY)
            except AirflowRuntimeError as error:
                self._log.warning("The checkpoint can't be read, so this try begins anew: %s", error)
        checkpoint = Checkpoint(fingerprint, state)
        if checkpoint:
            self._log.info("An earlier try has done part of this interval: this one does the rest. Counts are of both.")
        return checkpoint

    @property
    def save(self) -> Callable[[dict[str, Any]], None] | None:
        """Stores a state; None if nothing can be stored."""
        return self._save if self._store else None

    def forget(self) -> None:
        """Remove the checkpoint of a finished run; otherwise clearing the task would send nothing.

        :raises TryAgainLaterError: it stays. A retry is short, since all is done.
        """
        if not self._store:
            return
        try:
            self._store.delete(CHECKPOINT_KEY)
        except AirflowRuntimeError as error:
            raise TryAgainLaterError(
                f"All was {self._delivered}, but the checkpoint could not be removed: {error}. A retry removes it."
            ) from error

    def _save(self, state: dict[str, Any]) -> None:
        try:
            self._store.set(CHECKPOINT_KEY, state)
        except AirflowRuntimeError as error:  # Airflow's API is away: a retry would repeat more, no harm
            self._log.warning("The checkpoint could not be stored: %s", error)
