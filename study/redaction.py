"""The MLflow store's address without what may be secret in it, and texts that repeat parts of it."""

import os
import re
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORT = 4
_BEGIN, _END = 100, 200


def store_name(uri: str) -> str:
    """An address for people to read: without user, password, query or fragment, each of which may hold a token.

    >>> store_name("postgresql://me:secret@host/runs?sslpassword=other")
    'postgresql://host/runs'
    """
    scheme, slashes, rest = uri.partition("://")
    if not slashes:
        place = re.split(r"[?#]", uri, maxsplit=1)[0]
        return place if _harmless(place) else f"{HIDDEN}@{place.rpartition('@')[2]}"
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    if place.startswith("/"):  # a path: there is no user before it
        return f"{scheme}://{place}"
    if "@" in rest and "@" not in place:  # a password with ? or # in it, as it must not be written, but is
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{place.rpartition('@')[2]}"


def redacted(text: str) -> str:
    """A text, such as an error's, without what `MLFLOW_TRACKING_URI` and its like have that may be secret.

    What is hidden is hidden as it stands in the address and as it is meant: a database's error repeats a password
    decoded. Of any other address in the text the user and password go too.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        text = text.replace(uri, store_name(uri))
    text = re.sub(r"://[^\s/'\"]*@", f"://{HIDDEN}@", text)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        bounded = rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < _SHORT else re.escape(secret)
        text = re.sub(bounded, HIDDEN, text)
    return text


def reason(error: Exception) -> str:
    """The first line of an error without secrets, and without its middle where it is long: the cause stands last."""
    line = redacted((str(error).strip().splitlines() or [type(error).__name__])[0])
    return line if len(line) <= _BEGIN + _END else f"{line[:_BEGIN]} … {line[-_END:]}"


def _harmless(uri: str) -> bool:
    """Whether what has no scheme is a path, or can hold no password."""
    return "@" not in uri or os.path.exists(uri)


def _secrets(uri: str) -> set[str]:
    """Passwords and tokens: the part before @ (of user and password the password), the values of a query."""
    found = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    _, slashes, rest = uri.partition("://")
    if not slashes and not _harmless(uri):  # no address at all, but perhaps one that was meant
        found |= set(re.split(r"[:/]+", uri.rpartition("@")[0])[-1:])
    if not rest.startswith("/"):
        user, colon, password = rest.rpartition("@")[0].partition(":")
        found.add(password if colon else user)
    for part in re.split(r"[?#]", rest)[1:]:
        found |= {part} | {pair.partition("=")[2] for pair in part.split("&")}
    return {form for secret in found for form in (secret, unquote(secret), unquote_plus(secret)) if form}
