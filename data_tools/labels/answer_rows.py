"""Makes rows of prompts and answers; only the tokens of answers count in the loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.labels.label_rows import (
    LabelRow,
    LengthLimit,
    TooLong,
    cut_longest_first,
    encode_texts,
    text_value,
)
from data_tools.reading.documents import Skipped
from data_tools.reading.records import Record, RecordOptions, refuse_record
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizer.chat_template import ANSWERING_ROLE, ChatTemplate, Message


class AnswerRowMaker:
    """Makes rows of a prompt, an answer and the end of the document, which counts as answer.

    Both texts are encoded by themselves, as in generation, where the answer does not exist yet. A
    space between them must be in one of them.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        tokenizer: Tokenizer,
        reading: RecordOptions,
        limit: LengthLimit,
    ) -> None:
        """Prepares making rows.

        Args:
            columns: The columns of `prompt` and `answer`.
            tokenizer: Turns texts into tokens.
            reading: What to do with invalid rows.
            limit: The maximum length.
        """
        self._prompt, self._answer = columns["prompt"], columns["answer"]
        self._tokenizer, self._reading, self._limit = tokenizer, reading, limit

    def make(self, record: Record) -> LabelRow | TooLong | Skipped:
        """Makes the row of a record.

        Of a row that is cut, the longer text is cut first: a prompt loses its beginning, and an
        answer its end, with the token that ends the document.
        """
        texts: list[str] = []
        for column in (self._prompt, self._answer):
            text = text_value(record, column, self._reading)
            if isinstance(text, Skipped):
                return text
            texts.append(text)
        parts = encode_texts(record, texts, self._tokenizer, self._reading)
        if isinstance(parts, Skipped):
            return parts
        prompt, answer = parts
        answer = np.append(answer, np.int32(self._tokenizer.special.eos))
        length = len(prompt) + len(answer)
        if excess := self._limit.excess(length):
            if not self._limit.truncate:
                return TooLong(record.place, length)
            of_prompt, of_answer = cut_longest_first([len(prompt), len(answer)], excess)
            if min(of_prompt, of_answer) < 1:
                return TooLong(record.place, length)
            prompt, answer = prompt[-of_prompt:], answer[:of_answer]
        is_answer = np.zeros(len(prompt) + len(answer), dtype=np.bool_)
        is_answer[len(prompt) :] = True
        return LabelRow(
            np.concatenate([prompt, answer]),
            texts[0].encode("utf-8"),
            is_answer=is_answer,
            length=length - excess,
            untruncated=length if excess else 0,
        )


class ChatRowMaker:
    """Makes rows of conversations, rendered by the tokenizer's chat template."""

    def __init__(
        self, column: str, *, template: ChatTemplate, reading: RecordOptions, limit: LengthLimit
    ) -> None:
        """Prepares making rows.

        Args:
            column: The column with the list of messages.
            template: Renders them.
            reading: What to do with invalid rows.
            limit: The maximum length.
        """
        self._column, self._template = column, template
        self._reading, self._limit = reading, limit

    def make(self, record: Record) -> LabelRow | TooLong | Skipped:
        """Makes the row of a record; a longer row is cut at its end."""
        try:
            messages = _messages(record.values[self._column])
            rendered = self._template.encode(messages)
        except InputError as error:
            fault = f"'{self._column}': {error}"
            return refuse_record(self._reading, "invalid chat", place=record.place, fault=fault)
        length = len(rendered.tokens)
        excess = self._limit.excess(length)
        size = length - excess
        if excess and not (self._limit.truncate and rendered.is_answer[:size].any()):
            return TooLong(record.place, length)
        asked = (it["content"] for it in messages if it["role"] != ANSWERING_ROLE)
        return LabelRow(
            rendered.tokens[:size],
            "\0".join(asked).encode("utf-8"),
            is_answer=rendered.is_answer[:size],
            length=size,
            untruncated=length if excess else 0,
        )


def _messages(value: Any) -> list[Message]:
    """Checks that a value is a list of messages.

    Raises:
        InputError: It is not, or a message is empty or not UTF-8.
    """
    if not isinstance(value, list) or not value:
        raise InputError("must be a list of messages with role and content")
    messages: list[Message] = []
    for number, message in enumerate(value, 1):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise InputError(f"message {number} must have a role and a content, both text")
        if extra := sorted(k for k, v in message.items() if k not in ("role", "content") and v):
            raise InputError(f"message {number} has {extra[0]!r}, which is not read; remove it")
        if not content.strip():
            raise InputError(f"message {number} ({role}) is empty")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"message {number} ({role}) has half a surrogate pair") from None
        messages.append({"role": role, "content": content})
    if not any(message["role"] == ANSWERING_ROLE for message in messages):
        raise InputError(f"no message has the role {ANSWERING_ROLE!r}, so nothing can be learned")
    return messages
