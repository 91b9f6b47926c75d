"""Errors of this provider, sorted by the action that the reader should take."""


class CustomerIOToSegmentError(Exception):
    """Base class of all errors that this provider raises on purpose."""


class ConfigurationError(CustomerIOToSegmentError, ValueError):
    """The DAG or the connection is wrong. A retry can't help."""


class UnexpectedDataError(CustomerIOToSegmentError):
    """A service sent an answer that its documentation does not allow. A retry can't help."""


class EventsRefusedError(CustomerIOToSegmentError):
    """Segment refused events, or would have dropped them. A retry can't help.

    :param reason: a short name to count by, such as ``refused_413``.
    """

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class TryAgainLaterError(CustomerIOToSegmentError):
    """A service or a store is out of reach or busy. A retry may succeed.

    :param after: seconds that the service asks to wait, unchecked. Set only if the client does not wait that long.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
