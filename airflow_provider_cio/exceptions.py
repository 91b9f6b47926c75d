"""What can go wrong, sorted by what the reader should do about it. A leaf: it imports nothing."""


class CustomerIOToSegmentError(Exception):
    """Base of every error that this provider raises on purpose."""


class ConfigurationError(CustomerIOToSegmentError, ValueError):
    """Fix the DAG or the connection; a retry can't help."""


class UnexpectedDataError(CustomerIOToSegmentError):
    """A service answered with something that its documentation does not allow; a retry can't help."""


class EventsRefusedError(CustomerIOToSegmentError):
    """Segment did not accept events, or would have dropped them; a retry can't help.

    :param reason: a short name to count by, such as ``refused_413``.
    """

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class TryAgainLaterError(CustomerIOToSegmentError):
    """A service was out of reach or overloaded for longer than the client waits; Airflow's retry is right."""
