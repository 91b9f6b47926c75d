"""Checkpoints in Airflow's task state store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.signals import uninterrupted

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Key in the task state store. It is the same for all operators, because each task has a store of its own.
CHECKPOINT_KEY = "customerio_to_segment"


class CheckpointStore:
    """Checkpoint of a task in Airflow's task state store (Airflow 3.3 or newer).

    :param store: Airflow's store; None if there is none. Then nothing is loaded or saved.
    """

    def __init__(self, store: Any, log: Logger) -> None:
        self._store = store
        self._log = log

    def load(self, fingerprint: str) -> Checkpoint:
        """Return the checkpoint that earlier tries with this fingerprint have saved, or an empty one."""
        state = None
        if self._store:
            try:
                with uninterrupted():
                    state = self._store.get(CHECKPOINT_KEY)
            except AirflowRuntimeError as error:
                self._log.warning("The checkpoint can't be read, so this try begins anew: %s", error)
        checkpoint = Checkpoint(fingerprint, state)
        if checkpoint:
            self._log.info("An earlier try has done part of this interval. This try does the rest and counts both.")
        return checkpoint

    @property
    def save(self) -> Callable[[dict[str, Any]], None] | None:
        """Function that saves a state; None if nothing can be saved."""
        return self._save if self._store else None

    def forget(self) -> None:
        """Remove the checkpoint of a finished run, because a cleared task would send nothing with it.

        :raises TryAgainLaterError: it can't be removed. A retry is short, because all is done.
        """
        if not self._store:
            return
        try:
            with uninterrupted():
                self._store.delete(CHECKPOINT_KEY)
        except AirflowRuntimeError as error:
            raise TryAgainLaterError(
                f"All events were delivered, but the checkpoint could not be removed: {error}. A retry removes it."
            ) from error

    def _save(self, state: dict[str, Any]) -> None:
        try:
            with uninterrupted():
                self._store.set(CHECKPOINT_KEY, state)
        except AirflowRuntimeError as error:  # no harm: a retry only repeats more
            self._log.warning("The checkpoint could not be stored, so a retry would repeat more: %s", error)
