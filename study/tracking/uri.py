"""URI of the MLflow store, and redaction of secrets in messages."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

from dh2l.errors import UserError
from study.records.paths import Places

MASK = "***"
"""Replacement of a secret."""
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORT_SECRET = 4
"""Secrets with fewer characters are masked as whole words only."""
HEAD_LENGTH, TAIL_LENGTH = 100, 200
"""Characters kept at the beginning and at the end of a long error."""


def tracking_uri(places: Places) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the URI of the SQLite store under the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(store_file(places))


def store_file(places: Places) -> Path:
    """Return the database of the MLflow store under the results folder."""
    return places.mlflow / "mlflow.db"


def is_local() -> bool:
    """Return whether the MLflow store is the one under the results folder."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def store_exists(places: Places) -> bool:
    """Return whether there is an MLflow store: the user's own, or a local one made by a run."""
    return not is_local() or store_file(places).exists()


def require_persistent_store(places: Places) -> None:
    """Refuse an MLflow store in memory.

    Raises:
        UserError: the store is in memory.
    """
    scheme, _, rest = tracking_uri(places).partition("://")
    database, _, query = rest.removeprefix("/").partition("?")
    nameless = database in ("", ":memory:", "file:", "file::memory:") or "mode=memory" in query
    if scheme.partition("+")[0] == "sqlite" and nameless:
        raise UserError(
            f"MLFLOW_TRACKING_URI: {store_name(places)} is a database in memory; expected a file, "
            "e.g. sqlite:////home/me/mlflow.db. Pass a file, or unset the variable to use the "
            "store in the results folder."
        )


def store_name(places: Places) -> str:
    """Return the URI of the store for messages: without user, password and query."""
    return public_uri(tracking_uri(places))


def sqlite_uri(database: Path) -> str:
    """Return the URI of a SQLite database, and quote characters that are special in a URI.

    With its driver named, MLflow makes no folder named after the quoted path.

    >>> sqlite_uri(Path("/runs/50%?/mlflow.db"))
    'sqlite+pysqlite:////runs/50%25%3F/mlflow.db'
    """
    if any(letter in "%?#" for letter in str(database)):
        return f"sqlite+pysqlite:///{quote(str(database))}"
    return f"sqlite:///{database}"


def public_uri(uri: str) -> str:
    """Remove from a URI the user, password, query and fragment, each of which may be secret.

    >>> public_uri("postgresql://me:secret@host/runs?sslpassword=other")
    'postgresql://host/runs'
    """
    scheme, slashes, rest = uri.partition("://")
    if not slashes:
        location = re.split(r"[?#]", uri, maxsplit=1)[0]
        return location if _is_harmless(location) else f"{MASK}@{location.rpartition('@')[2]}"
    location = re.split(r"[?#]", rest, maxsplit=1)[0]
    if location.startswith("/"):  # a path: no user precedes it
        return f"{scheme}://{location}"
    if "@" in rest and "@" not in location:  # an unquoted ? or # in the password
        return f"{scheme}://{MASK}"
    return f"{scheme}://{location.rpartition('@')[2]}"


def redact(text: str) -> str:
    """Mask the secrets of `MLFLOW_TRACKING_URI` and similar variables in a text, e.g. an error.

    Masks them quoted and unquoted, because errors of a database repeat a password unquoted. Also
    masks the user and password of every other URI in the text.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        text = text.replace(uri, public_uri(uri))
    text = re.sub(r"://[^\s/'\"]*@", f"://{MASK}@", text)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        pattern = re.escape(secret)
        if len(secret) < SHORT_SECRET:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, MASK, text)
    return text


def redacted_reason(error: Exception) -> str:
    """Return the first line of an error without secrets.

    Cuts the middle out of a long line, because the cause is at its end.
    """
    line = redact((str(error).strip().splitlines() or [type(error).__name__])[0])
    if len(line) <= HEAD_LENGTH + TAIL_LENGTH:
        return line
    return f"{line[:HEAD_LENGTH]} … {line[-TAIL_LENGTH:]}"


def _is_harmless(uri: str) -> bool:
    """Return whether a text without a scheme is a path, or cannot contain a password."""
    return "@" not in uri or os.path.exists(uri)


def _secrets(uri: str) -> set[str]:
    """Return the passwords and tokens of a URI and of the environment, quoted and unquoted."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    _, slashes, rest = uri.partition("://")
    if not slashes and not _is_harmless(uri):  # not a URI, but perhaps a mistyped one
        found |= set(re.split(r"[:/]+", uri.rpartition("@")[0])[-1:])
    if not rest.startswith("/"):
        user, colon, password = rest.rpartition("@")[0].partition(":")
        found.add(password if colon else user)
    for part in re.split(r"[?#]", rest)[1:]:
        found |= {part} | {pair.partition("=")[2] for pair in part.split("&")}
    found.discard("")
    return found | {unquote(secret) for secret in found} | {unquote_plus(s) for s in found}
