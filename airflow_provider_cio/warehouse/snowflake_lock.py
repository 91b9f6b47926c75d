"""Lock of a load into Snowflake: a row that the load's first session updates, while a second one inserts."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.warehouse.database import ReportWait, TryAgainNowError, shown
from airflow_provider_cio.warehouse.snowflake_session import CANCELED, STOPPED, TIMED_OUT, Session, sqlstate

#: Longest time, in seconds, that a load waits for others before it leaves the retry to Airflow.
LOCK_TIMEOUT = 600
#: Longest time, in seconds, of a statement of the second session. If a session does nothing for five minutes, and
#: another one waits for its lock, Snowflake ends its transaction.
INSERT_TIMEOUT = 240
#: Longest time, in seconds, that the driver tries to send the COMMIT: the lock must still be there when it arrives.
_COMMIT_TIMEOUT = 60
#: Seconds between two checks of the lock while a COMMIT may still run.
_PAUSE = 30


class Lock:
    """Lock on the schema, which lasts until the first session's transaction ends.

    :param session: the first one, without a transaction.
    :param schema: its name, for errors.
    :param table: with its schema, quoted. It is made if it does not exist.
    """

    def __init__(self, session: Session, schema: str, table: str, report_wait: ReportWait) -> None:
        self._session = session
        self._schema = schema
        self._table = table
        self._holder = uuid.uuid4().hex
        self._report_wait = report_wait
        session.execute(f'CREATE TABLE IF NOT EXISTS {table} ("HOLDER" VARCHAR)')
        # Two first loads at once may insert a row each. That does no harm, because each load updates all rows.
        session.execute(f"INSERT INTO {table} SELECT '' WHERE NOT EXISTS (SELECT 1 FROM {table})")

    def take(self) -> None:
        """Update the row in the session's transaction, waiting for a load that has done so.

        :raises TryAgainLaterError: other loads have not ended in time.
        """
        from snowflake.connector.errors import Error

        wait = f"Waiting for another load into schema {self._schema} to end"
        try:
            self._session.execute(f"UPDATE {self._table} SET \"HOLDER\" = '{self._holder}'", wait=wait)
        except Error as error:
            if sqlstate(error) != STOPPED or error.errno == CANCELED:
                raise
            limit = f"{LOCK_TIMEOUT} s, or too many wait"
            if error.errno == TIMED_OUT:  # to update one row takes no time, so the statement has waited
                # The session's own time-out is longer, but Snowflake takes the warehouse's if that is shorter.
                limit = f"the warehouse's time-out: {shown(str(error.raw_msg))}"
            raise TryAgainLaterError(
                f"other loads into schema {self._schema} have not ended within {limit} ({error.errno})"
            ) from None

    def check(self) -> None:
        """Check that the session has the lock. This also keeps it from doing nothing for five minutes.

        :raises TryAgainNowError: Snowflake has ended its transaction.
        """
        if set(self._session.execute(f'SELECT "HOLDER" FROM {self._table}')) != {(self._holder,)}:
            raise TryAgainNowError("Snowflake gave the load's lock to another one, because it took too long")

    def commit(self, second: Session) -> None:
        """Commit the transaction of the second session.

        If Snowflake does not answer, it may still execute the COMMIT, up to the time-out of the session. So the lock
        is kept as long. Otherwise another load could open its second session in between, which would not see the rows,
        and would insert them again. The retry of this load sees them, because its sessions are opened later.
        """
        from snowflake.connector.errors import ProgrammingError

        try:
            second.execute("COMMIT", timeout=_COMMIT_TIMEOUT)
        except ProgrammingError:  # Snowflake has answered, so the transaction is over
            raise
        except BaseException:
            with suppress(Exception):  # a COMMIT that has not arrived yet finds no session
                second.close()
            self._outlast_commit()
            raise

    def _outlast_commit(self) -> None:
        deadline = time.monotonic() + INSERT_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            with suppress(Exception):
                self.check()
            self._report_wait("Waiting until Snowflake has surely ended a COMMIT that it did not answer")
            time.sleep(min(_PAUSE, left))
