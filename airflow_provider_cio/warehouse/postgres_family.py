"""Catalogs, rights and errors that PostgreSQL and Redshift share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import Database, rows_rejected, shown

#: Classes of SQLSTATE whose text names objects, settings or limits, and no value of a row. A function of the database
#: may raise any class with any text, so its text is not shown.
_CLASSES_WITHOUT_VALUES = ("", "08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58")
#: Classes among them after which another try may succeed. Internal errors (XX) may pass, too.
_PASSING_CLASSES = ("", "08", "25", "40", "53", "55", "57", "58", "XX")
#: SQLSTATE of a syntax error, whose text quotes a part of the statement.
_SYNTAX_ERROR = "42601"


def login_rejected(text: str) -> ConfigurationError:
    """Return the error for a wrong user, password or database."""
    return ConfigurationError(f"login rejected: {text}. Check login, password and database of the connection")


def text_of(code: str, text: str, *, of_function: bool) -> str:
    """Return the server's text if it can hold no value of a row, else a note in its place.

    :param of_function: a function raised the error, a trigger's for example.
    """
    if of_function or code[:2] not in _CLASSES_WITHOUT_VALUES or code == _SYNTAX_ERROR:
        return "the server's log has the text, which may hold values of rows"
    return shown(text)


class PostgresFamily(Database):
    """A database with PostgreSQL's catalogs, rights and SQLSTATEs."""

    #: Privileges on tables that a load needs.
    privileges: ClassVar[str] = "SELECT, INSERT"

    def has_schema(self, cursor: Any) -> bool:
        """Return whether the schema exists, even if the user has no right to it and information_schema hides it.

        :raises ConfigurationError: the schema exists, and the user has no right to it.
        """
        cursor.execute(
            f"SELECT has_schema_privilege(nspname, 'USAGE') FROM pg_namespace WHERE nspname = '{self._schema}'"
        )
        found = cursor.fetchone()
        if found and not found[0]:
            raise self.not_allowed(f"there is a schema {self._schema}, and the user has no right to it")
        return bool(found)

    def owners(self, cursor: Any) -> tuple[str, Mapping[str, str]]:
        cursor.execute("SELECT current_user")
        user = str(cursor.fetchone()[0])
        cursor.execute(f"SELECT tablename, tableowner FROM pg_tables WHERE schemaname = '{self._schema}'")
        return user, dict(cursor.fetchall())

    def not_allowed(self, text: str) -> ConfigurationError:
        """Return the error for a missing privilege, with the statements for all privileges that a load needs."""
        schema = self._schema
        return ConfigurationError(
            f"the user lacks a privilege: {text}. Run the statement for it: GRANT CREATE ON DATABASE <database> TO "
            "<user> (to make the schema); GRANT TEMPORARY ON DATABASE <database> TO <user>; GRANT USAGE, CREATE ON "
            f"SCHEMA {schema} TO <user>; GRANT {self.privileges} ON ALL TABLES IN SCHEMA {schema} TO <user>. Only the "
            "owner of a table can add a column to it"
        )

    def sqlstate_error(self, code: str, text: str, rule: str = "") -> CustomerIOToSegmentError:
        """Return the error for a SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html

        :param code: empty if there was no connection.
        :param text: see `text_of`.
        :param rule: names of the table, column and constraint that rejected a row, as far as the server tells them.
        """
        if code == "25006":
            return ConfigurationError(f"the connection is read-only: {text}. Use a connection that may write")
        if code == "42501":
            return self.not_allowed(text)
        if code[:2] in ("28", "3D"):  # wrong user or password, unknown database
            return login_rejected(text)
        if code in ("42P06", "42P07"):  # a schema or table exists, and the catalogs do not show it to the user
            return self.not_allowed(f"no right to it, and so it is not shown: {text} ({code})")
        if code[:2] in ("0A", "3F", "42"):  # an object is missing, or of another kind
            return ConfigurationError(f"{text} ({code}). Check whether somebody else changed schema {self._schema}")
        if code[:2] in _PASSING_CLASSES:
            return TryAgainLaterError(f"{text} ({code or 'no connection'})")
        # A value does not fit its column or breaks a constraint, or a function refuses it, with a code of its choice.
        return rows_rejected(", ".join(filter(None, (code, rule))))
