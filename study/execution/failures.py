"""Description of an exception in a trial for its record."""

import traceback

from dh2l.plugins import plugin_location
from study.records.record import Failure

TRACEBACK_LINES = 30
MESSAGE_LETTERS = 2000


def describe_failure(error: Exception) -> Failure:
    """Return the failure that an exception is to the record of a trial.

    The message begins with the line of a user's code, if the error comes from one. The traceback
    is the one of the error's first cause.
    """
    message = str(error)
    location = plugin_location(error)
    if location not in message:
        message = location + message
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = "".join(traceback.format_exception(cause)).splitlines()[-TRACEBACK_LINES:]
    if cause is not error:
        lines += "".join(traceback.format_exception_only(error)).splitlines()
    return Failure(
        kind=type(error).__name__,
        message=message[:MESSAGE_LETTERS],
        traceback="\n".join(lines),
    )
