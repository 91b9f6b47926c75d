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
    """A later try may succeed, perhaps on another worker; Airflow's retry is right.

    :param after: seconds after which another try makes sense, if the service asks for a longer wait than the client has
        patience for. It is what the service asks, unchecked.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
