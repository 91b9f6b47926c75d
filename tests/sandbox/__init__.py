"""Customer.io's App API and Segment's Tracking API on loopback, over a made-up past, with faults on demand.

It is written from the reference pages and knows nothing of the provider that is tested against it.
"""

from __future__ import annotations

from tests.sandbox.faults import Fault
from tests.sandbox.history import History
from tests.sandbox.server import Sandbox
from tests.sandbox.settings import Settings

__all__ = ["Fault", "History", "Sandbox", "Settings"]
