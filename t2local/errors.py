"""Failures that a user caused and can mend.

A `T2LocalError` is one clear sentence: the thing, what was found, the way out. The page shows it
as a message, the command line as one line, an API as JSON with a 4xx. A programmer's mistake is an
`assert` with the values instead.
"""


class T2LocalError(Exception):
    """A user's mistake, or a limit of this machine, in one sentence that ends with a remedy."""


class DiskFull(T2LocalError):
    """There is no space to write; the same may succeed once some is freed."""


class Cancelled(Exception):
    """Work stopped because its `CancelToken` was cancelled; not a failure."""
