"""The URL of a database: its check, and the hiding of its password and other secrets."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from libmtl_recon import UsageError
from libmtl_recon.errors import MissingPackageError

_WAY_OUT = (
    "Give postgresql://USER:PASSWORD@HOST/DATABASE, mysql://USER:PASSWORD@HOST/DATABASE (also "
    "for MariaDB), or sqlite:///FILE for several workers on one machine."
)


@dataclass(frozen=True)
class _Dialect:
    """A kind of database, and the package of its driver."""

    name: str  # its name in SQLAlchemy
    driver: str
    package: str
    extra: str
    title: str


_MYSQL = _Dialect("mysql", "pymysql", "pymysql", "mysql", "MySQL or MariaDB")
_DIALECTS = {
    "postgresql": _Dialect("postgresql", "psycopg", "psycopg[binary]", "postgres", "PostgreSQL"),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,  # the dialect for which Optuna writes without races
    "sqlite": _Dialect("sqlite", "pysqlite", "sqlite3", "", "SQLite"),
}
# Keys of a URL's query, in lower case, whose values are as secret as the password.
_SECRET = re.compile(r"pass|pwd|secret|token|key")
_SHORT = 6  # characters; shorter secrets are hidden as whole words only


@dataclass(frozen=True)
class Address:
    """The address of a study's database.

    Attributes:
        url: The URL with the password, for SQLAlchemy only.
        kind: ``postgresql``, ``mysql`` (also for MariaDB) or ``sqlite``.
        shown: The URL without its secrets.
        file: The file of SQLite.
    """

    url: str = field(repr=False)
    kind: str
    shown: str
    file: Path | None = None
    _secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str, parameter: str = "storage") -> Address:
        """Parse a URL of a user.

        Args:
            text: The URL. It need not name a driver.
            parameter: The name of the caller's argument, for the message.

        Raises:
            UsageError: It is not the URL of a database that can hold a study. The message contains
                only parts that are known not to be secret.
            MissingPackageError: The driver is not installed.
        """
        scheme, separator, rest = str(text).strip().partition("://")
        if not separator or not re.fullmatch(r"[\w+.-]+", scheme):
            raise UsageError(parameter, "must be the URL of a database", "no URL", _WAY_OUT)
        name, _, driver = scheme.lower().partition("+")
        dialect = _DIALECTS.get(name)
        covered = f"{scheme}://***"
        if dialect is None or driver not in ("", dialect.driver):
            known = dict.fromkeys(f"{d.name}+{d.driver}" for d in _DIALECTS.values())
            raise UsageError(
                parameter, f"must begin with one of {', '.join(known)}", covered, _WAY_OUT
            )
        try:
            url = make_url(f"{dialect.name}+{dialect.driver}://{rest}")
        except (ArgumentError, ValueError):  # a port that is not a number
            raise UsageError(parameter, _RULE, covered, f"{_ESCAPED} {_WAY_OUT}") from None
        if "@" in (url.host or "") or "@" in (url.username or ""):
            raise UsageError(parameter, _RULE, covered, f"{_ESCAPED} {_WAY_OUT}")
        if name == "sqlite":
            return _sqlite(url, parameter)
        _check_driver(dialect)
        if not url.database:
            raise UsageError(
                parameter, "must contain the name of a database", _shown(url), _WAY_OUT
            )
        return cls(_template(url), dialect.name, _shown(url), None, _secrets(url, rest))

    def hide(self, text: str) -> str:
        """Return a text without the secrets of the URL."""
        for secret in self._secrets:
            literal = re.escape(secret)
            whole = literal if len(secret) >= _SHORT else rf"(?<!\w){literal}(?!\w)"
            text = re.sub(whole, "***", text)
        return text


_RULE = "must be a URL that can be parsed"
_ESCAPED = (
    "In a user name or a password, write `@` as %40, `:` as %3A, `/` as %2F, `?` as %3F and `%` as "
    "%25; the port is a number."
)


def _sqlite(url: URL, parameter: str) -> Address:
    shown = url.set(drivername="sqlite").render_as_string()
    database = url.database or ""
    if database in ("", ":memory:") or url.query.get("mode") == "memory" or ":memory:" in database:
        raise UsageError(
            parameter,
            "must contain a file name for an SQLite database",
            shown,
            "A database in memory is visible to one process only: give sqlite:///FILE.",
        )
    if url.host or url.query or database.startswith("file:"):
        raise UsageError(
            parameter, "must be sqlite:///FILE and nothing more", shown, "An absolute path has "
            "four slashes: sqlite:////home/me/study.db."
        )  # fmt: skip
    file = Path(database).expanduser().absolute()
    whole = URL.create("sqlite", database=str(file))
    return Address(_template(whole), "sqlite", f"sqlite:///{file}", file)


def _check_driver(dialect: _Dialect) -> None:
    try:
        importlib.import_module(dialect.driver)
    except ImportError as error:
        raise MissingPackageError(
            f"A study in {dialect.title}", dialect.package, dialect.extra
        ) from error


def _template(url: URL) -> str:
    """Return the URL for Optuna, which would replace text in braces."""
    whole = url.render_as_string(hide_password=False)
    return whole.replace("{", "{{").replace("}", "}}")


def _shown(url: URL) -> str:
    query = {k: "***" if _SECRET.search(k.lower()) else v for k, v in url.query.items()}
    shown = url.set(query=query).render_as_string(hide_password=True)
    return shown.replace(quote_plus("***"), "***")


def _secrets(url: URL, rest: str) -> tuple[str, ...]:
    found = [url.password or ""]
    for key, value in url.query.items():
        if _SECRET.search(key.lower()):
            found += [value] if isinstance(value, str) else value
    typed = re.match(r"[^:/@]*:([^@]*)@", rest)
    found += [typed[1]] if typed else []
    every = {form for one in found for form in (one, quote(one, safe=""), quote_plus(one))}
    return tuple(sorted(every - {""}, key=len, reverse=True))
