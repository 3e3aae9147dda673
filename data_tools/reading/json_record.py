"""Makes a document from one JSON object, or an error of one line about the object."""

import json
from collections.abc import Callable
from typing import Any

from data_tools.reading.documents import Document, ReadOptions, Skipped, refuse

_NAMED_FIELDS = 12


class JsonRecord:
    """A JSON object and its place in the input."""

    __slots__ = ("_exact", "_options", "_place")

    def __init__(self, options: ReadOptions, *, place: str, exact: Callable[[], str]) -> None:
        """Describes an object before it is read.

        Args:
            options: The name of the text field, and what to do with invalid objects.
            place: The place of the document.
            exact: Returns the exact place for an error message; called only for an error.
        """
        self._options = options
        self._place = place
        self._exact = exact

    def parse(self, content: bytes) -> Document | Skipped:
        """Reads the object from its bytes."""
        try:
            value = json.loads(content.decode("utf-8"))
        except json.JSONDecodeError as error:
            return self._invalid(f"{error.msg}, column {error.colno}")
        except UnicodeDecodeError as error:
            return self._invalid(f"byte 0x{content[error.start]:02x} is not UTF-8", error.start + 1)
        except (ValueError, RecursionError) as error:
            return self._invalid(str(error))
        return self.take(value, may_have_surrogates=b"\\ud" in content or b"\\uD" in content)

    def take(self, value: Any, *, may_have_surrogates: bool = True) -> Document | Skipped:
        """Makes the document from a parsed value."""
        if not isinstance(value, dict):
            kind = type(value).__name__
            return self._refuse("invalid JSON", f"is a JSON {kind}, not an object")
        field = self._options.text_field
        text = value.get(field)
        if not text:
            if field in value and text in (None, ""):
                return Skipped("empty", self._place)
            if field not in value:
                return self._no_field(value)
        if not isinstance(text, str):
            kind = type(text).__name__
            return self._refuse("not a string", f"has a {kind} in field '{field}', not a string")
        if may_have_surrogates:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                return self._invalid(f"half a surrogate pair, {text[error.start]!a}, in '{field}'")
        identity = value.get(self._options.id_field) if self._options.id_field else None
        return Document(text, self._place, None if identity is None else str(identity))

    def too_long(self) -> Skipped:
        """Skips or refuses the object because it is longer than the longest allowed document."""
        return self._refuse("too long", f"is {self._options.too_long}")

    def _invalid(self, what: str, column: int | None = None) -> Skipped:
        where = "" if column is None else f", column {column}"
        return self._refuse("invalid JSON", f"is not valid JSON ({what}{where})")

    def _no_field(self, value: dict[str, Any]) -> Skipped:
        names = [f"'{name}'" for name in value]
        more = ", …" if len(names) > _NAMED_FIELDS else ""
        there = ", ".join(names[:_NAMED_FIELDS]) + more if names else "none"
        field, option = self._options.text_field, self._options.spell("text_field")
        message = f"has no field '{field}' (its fields: {there}): choose {option}"
        return self._refuse("no text field", message)

    def _refuse(self, reason: str, message: str) -> Skipped:
        where = self._exact() if self._options.on_invalid == "stop" else ""
        return refuse(self._options, reason, place=self._place, message=f"{where} {message}")
