"""What a user can put right: one error type that the command line shows as a single line."""


class InputError(ValueError):
    """A file, folder or option of the user's cannot be used; says what, where and how to mend it."""
