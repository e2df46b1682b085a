"""Errors that are the user's to mend. Their text is the whole message: commands print it without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something in the user's input is wrong: the text says where, what, what is allowed and the way out."""


class DataError(UserError):
    """A data set is missing, unreadable or does not fit its configuration."""


class NoRoom(Exception):
    """Not so many trials train side by side: one of them fails, and says why."""
