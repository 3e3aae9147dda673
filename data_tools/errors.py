"""The error type for mistakes that a user can correct; the command line shows it in one line."""


class InputError(ValueError):
    """The user's input cannot be used; the message says what is wrong, where, and how to fix it."""
