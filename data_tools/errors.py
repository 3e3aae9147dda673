"""The error type for what a user can correct; the command line shows it as a single line."""


class InputError(ValueError):
    """The user's input cannot be used; the message says what is wrong, where, and how to fix it."""
