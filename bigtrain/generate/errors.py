"""The error of this package."""


class GenerationError(ValueError):
    """Nothing can be generated; the message is one line and says why."""
