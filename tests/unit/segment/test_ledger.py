"""Check which pieces count as acknowledged, without a server."""

from __future__ import annotations

import pytest

from airflow_provider_cio.segment.sink import Ledger


@pytest.mark.parametrize(
    ("story", "acknowledged"),
    [
        ("", 0),
        ("piece", 1),  # nothing to send
        ("pending", 0),
        ("pending sent", 0),
        ("pending sent settled", 1),
        ("sent piece", 0),  # its last event filled a batch
        ("sent piece settled", 1),
        ("sent settled piece", 1),
        ("pending pending sent settled", 2),  # both in one batch
        ("sent pending settled", 0),  # one batch, and more that is in none yet
        ("sent pending settled sent settled", 1),
        ("pending sent pending settled", 1),
        ("pending sent pending settled sent settled", 2),
        ("pending piece", 0),  # the second has nothing of its own, and waits for the first
        ("pending sent sent sent settled pending settled settled", 1),
    ],
)
def test_settled_batches_acknowledge(story: str, acknowledged: int) -> None:
    ledger = Ledger()
    for step in story.split():
        if step == "sent":
            ledger.batch_sent()
        elif step == "settled":
            ledger.batch_settled()
        else:
            ledger.piece_taken(pending=step == "pending")
    assert ledger.acknowledged == acknowledged
