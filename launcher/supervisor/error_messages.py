"""Compares error messages of ranks, and recognises those of failing hardware. Pure."""

import re

_HARDWARE = re.compile(
    r"\bECC\b|\bXid\b|uncorrectable|\bbus error|\bSIGBUS\b|CUDA error|unhandled system error"
    r"|fallen off the bus|hardware error",
    re.IGNORECASE,
)
_NOT_HARDWARE = re.compile(r"out of memory|device-side assert", re.IGNORECASE)
_PATH = re.compile(r"(?<!\w)(?:~|\.{1,2})?(?:/[\w.+@%=-]+)+/?")
_WORD_WITH_DIGIT = re.compile(r"[-+]?\w*\d\w*(?:[.:+-]+\w*\d\w*)*")


def normalise_message(message: str) -> str:
    """The message without what differs between equal errors: numbers, addresses, paths, times."""
    text = _PATH.sub("PATH", " ".join(message.split()))
    return _WORD_WITH_DIGIT.sub("#", text)


def looks_like_hardware(message: str) -> bool:
    """Whether an error is of the kind that failing hardware causes."""
    return bool(_HARDWARE.search(message)) and not _NOT_HARDWARE.search(message)
