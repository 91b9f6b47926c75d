"""What can go wrong, sorted by what the reader should do about it. A leaf: it imports nothing."""


class CustomerIOToSegmentError(Exception):
    """Base of every error that this provider raises on purpose."""


class ConfigurationError(CustomerIOToSegmentError, ValueError):
    """Fix the DAG or the connection; a retry can't help."""


class UnexpectedDataError(CustomerIOToSegmentError):
    """A service answered with something that its documentation does not allow; a retry can't help."""


class EventsRefusedError(CustomerIOToSegmentError):
    """Segment did not accept events, or would have dropped them; a retry can't help."""


class TryAgainLaterError(CustomerIOToSegmentError):
    """A service was out of reach or overloaded for longer than the client waits; Airflow's retry is right."""
