"""What a user can put right: one error type that the command line shows as a single line."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what, where and how to mend it."""
