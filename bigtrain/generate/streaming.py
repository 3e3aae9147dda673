"""Shows a text while it is generated."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers.generation.streamers import BaseStreamer

from bigtrain.generate.stop_strings import cut_at_stop

_UNFINISHED = "\ufffd"
"""What a decoder gives for a character whose last bytes are in the next token."""


class Streamer(BaseStreamer):
    """Writes each part of a text once it is certain; all parts together are the decoded text.

    transformers' own TextStreamer begins to decode anew after each line, where some tokenizers drop
    a leading space, and it shows stop strings. This one decodes all new tokens each time, which
    costs microseconds a token, and holds back what may become a stop string. It also holds back
    byte tokens at the end: with the next byte they may become another character, or no text at all.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        write: Callable[[str], Any],
        *,
        stop: Sequence[str] = (),
        is_byte: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """Shows nothing yet.

        Args:
            decode: Turns all new ids into text.
            write: Receives the parts.
            stop: The text ends before the first of these strings.
            is_byte: Whether a token is one byte of a character without a token of its own.
        """
        self._decode, self._write, self._stop, self._is_byte = decode, write, stop, is_byte
        self._ids: list[int] = []
        self._shown = ""
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """Takes the ids of the prompt, the first time, or the next ids."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        self._ids += value.flatten().tolist()
        self._show(is_end=False)

    def end(self) -> None:
        """Writes what was held back."""
        self._show(is_end=True)

    def _show(self, *, is_end: bool) -> None:
        certain = len(self._ids)
        while not is_end and certain and self._is_byte(self._ids[certain - 1]):
            certain -= 1
        text = cut_at_stop(self._decode(self._ids[:certain]), self._stop)
        if not is_end:
            # A tokenizer that cleans up its text changes spaces before the next word.
            text = text.rstrip().rstrip(_UNFINISHED)
            held = max((_overlap(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - held]
        if len(text) > len(self._shown):
            self._write(text[len(self._shown) :])
            self._shown = text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
