"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what, where, why and what to type.

    The command line prints it without a traceback and exits with 2.
    """


class RunFailedError(Exception):
    """A run that had begun cannot go on; the message says why and what is left of it. Exit code 1."""
