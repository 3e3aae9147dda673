"""Reads a JSON file that is one array, or objects over several lines, value by value."""

import codecs
import json
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from data_tools.errors import InputError
from data_tools.reading.documents import Document, InputFile, ReadOptions, Skipped
from data_tools.reading.json_record import JsonRecord

_BLOCK_BYTES = 1 << 20
_LITERAL_CHARACTERS = 16  # An error this close to the end of a block may be caused by the cut.
_JSON = json.JSONDecoder()


def read_json_values(
    stream: IO[bytes], file: InputFile, options: ReadOptions
) -> Iterator[Document | Skipped]:
    """Reads the objects of an array, or consecutive objects, with any white space.

    Memory stays within a few times the longest document.

    Raises:
        InputError: The file is not valid JSON, so the rest of it cannot be read.
    """
    values = JsonValues(stream, file, options)
    for number, value in enumerate(values, 1):
        exact = partial("{} value {}".format, file.path, number)
        yield JsonRecord(options, place=f"{file.name} value {number}", exact=exact).take(value)


class JsonValues:
    """The values of a stream; each element of an array is a value."""

    def __init__(self, stream: IO[bytes], file: InputFile, options: ReadOptions) -> None:
        self._stream = stream
        self._file = file
        self._options = options
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        in_array = False
        while True:
            match self._next_character(in_array=in_array):
                case "":
                    if in_array:
                        raise self._fault("ends inside an array: it is truncated")
                    return
                case "[" if not in_array:
                    in_array = True
                    self._at += 1
                case "]" if in_array:
                    in_array = False
                    self._at += 1
                case _:
                    self._number += 1
                    yield self._take_value()

    def _next_character(self, *, in_array: bool) -> str:
        """Goes to the next value or bracket; returns its first character, or none at the end."""
        between = " \t\r\n," if in_array else " \t\r\n"
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in between:
                    return self._text[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def _take_value(self) -> Any:
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self._fault(f"is not valid JSON ({error})") from error
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error) or not self._read_more():
                    raise self._fault(f"is not valid JSON ({error.msg})") from error
                continue
            if end == len(self._text) and self._read_more():
                continue  # A number may continue in the next block.
            self._at = end
            return value

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        if len(self._text) - self._at > self._options.max_document_bytes:
            raise self._fault(f"is {self._options.too_long}")
        near_the_end = error.pos >= len(self._text) - _LITERAL_CHARACTERS
        return near_the_end or error.msg.startswith("Unterminated string")

    def _read_more(self) -> bool:
        """Reads a block at least as long as the current value, so that it is parsed rarely."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        block = self._stream.read(max(_BLOCK_BYTES, len(kept)))
        self._ended = not block
        try:
            self._text, self._at = kept + self._decoder.decode(block, final=not block), 0
        except UnicodeDecodeError as error:
            raise self._fault(f"is not valid JSON ({error.reason}: not UTF-8)") from error
        return True

    def _fault(self, what: str) -> InputError:
        return InputError(
            f"{self._file.path} value {self._number} {what}; what follows cannot be read: correct "
            "it, write one object per line (jq -c '.[]' does that for an array), or exclude it"
        )
