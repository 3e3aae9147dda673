"""Renders conversations with the chat template of a Hugging Face tokenizer, through transformers.

The ids are those of transformers' `apply_chat_template`, so that a model is asked in the same way
after its training. Templates run in the sandbox of transformers; no code of a model is loaded.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import InputError
from data_tools.files import load_json
from data_tools.tokenizer.special_token_roles import CONFIG_NAME
from data_tools.tokenizer.special_tokens import ROLES

TEMPLATE_FILE = "chat_template.jinja"
ANSWERING_ROLE = "assistant"
"""The role whose messages are answers."""

_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_DEFAULT = "default"


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as tokens."""

    tokens: NDArray[np.int32]
    """`[tokens]`."""
    is_answer: NDArray[np.bool_]
    """`[tokens]`: whether a token is part of an answer, or ends one."""


class ChatTemplate:
    """The chat template of a `tokenizer.json`.

    If the template marks answers with `{% generation %}`, the tokens inside are the answers.
    Otherwise an answer is what the template adds to the text of the messages before it, after the
    prompt for generation.
    """

    def __init__(self, tokenizer_json: Path, text: str) -> None:
        """Prepares rendering.

        Args:
            tokenizer_json: The tokenizer.
            text: The template, in Jinja.
        """
        import transformers

        self.text = text
        self.sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
        self._path = tokenizer_json
        named = _special_tokens(tokenizer_json.with_name(CONFIG_NAME))
        make: Any = transformers.PreTrainedTokenizerFast
        self._tokenizer = make(tokenizer_file=str(tokenizer_json), chat_template=text, **named)
        added = self._tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special}
        self._special_names = sorted(names | set(self._tokenizer.all_special_tokens))
        self._marks_answers = _MARKS_ANSWERS.search(text) is not None

    def encode(self, messages: Sequence[Message]) -> RenderedChat:
        """Turns a conversation into tokens.

        Raises:
            InputError: The template refuses it, a message has the name of a special token, or the
                template does not show which tokens are answers.
        """
        self._check_contents(messages)
        text, spans = self._render_marked(messages) if self._marks_answers else self._cut(messages)
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        is_answer = np.zeros(len(offsets), dtype=np.bool_)
        for begin, end in spans:
            # A token that begins before an answer and ends in it is an answer to transformers, too.
            is_answer |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
        is_answer &= offsets[:, 0] < offsets[:, 1]
        is_answer[:1] = False  # No token comes before the first one, so it is never predicted.
        if not is_answer.any():
            raise InputError("the template renders no token of an answer")
        return RenderedChat(np.array(encoding["input_ids"], dtype=np.int32), is_answer)

    def _check_contents(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages, 1):
            for name in self._special_names:
                if name in message["content"]:
                    raise InputError(
                        f"message {number} has {name!r} in its text, which would become a special "
                        "token"
                    )

    def _render_marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template
        named = self._tokenizer.special_tokens_map
        with _refuse_template_errors():
            texts, spans = render(
                [list(messages)],
                chat_template=self.text,
                return_assistant_tokens_mask=True,
                **named,
            )
        return texts[0], [(begin, end) for begin, end in spans[0]]

    def _cut(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and where its answers are."""
        text, spans = self._render(messages), []
        for number, message in enumerate(messages):
            if message["role"] != ANSWERING_ROLE:
                continue
            before = self._render(messages[:number], asks=True)
            upto = self._render(messages[: number + 1])
            if not (upto.startswith(before) and text.startswith(upto)):
                raise InputError(
                    f"the chat template of {self._path} renders message {number + 1} differently "
                    "without the messages after it, so its tokens cannot be told from the others: "
                    "mark answers in the template with {% generation %} … {% endgeneration %}"
                )
            spans.append((len(before), self._end_of(upto, len(before))))
        return text, spans

    def _end_of(self, upto: str, begin: int) -> int:
        """Where an answer ends: after its last special token, if only white space follows it."""
        trimmed = upto.rstrip()
        closes = len(trimmed) > begin and trimmed.endswith(tuple(self._special_names))
        return len(trimmed) if closes else len(upto)

    def _render(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        with _refuse_template_errors():
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=asks
            )
        return text


def load_chat_template(tokenizer: Path) -> ChatTemplate:
    """Finds the chat template beside a `tokenizer.json`.

    It is in `chat_template.jinja`, or in `tokenizer_config.json` as `chat_template`.

    Raises:
        InputError: There is none, or the tokenizer is a SentencePiece model.
    """
    beside = tokenizer.with_name(TEMPLATE_FILE)
    if beside.is_file():
        try:
            text: Any = beside.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{beside} is not UTF-8: restore it from a good copy") from error
    else:
        config = tokenizer.with_name(CONFIG_NAME)
        values = load_json(config) if config.is_file() else {}
        text = values.get("chat_template") if isinstance(values, dict) else None
        if isinstance(text, list):  # Several named templates, in the older format.
            named = {it.get("name"): it.get("template") for it in text if isinstance(it, dict)}
            text = named.get(_DEFAULT)
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"{tokenizer} has no chat template: chat messages need the tokenizer.json of a model "
            f"with a {TEMPLATE_FILE} beside it, or with chat_template in its {CONFIG_NAME}; or "
            "give --prompt and --answer"
        )
    return ChatTemplate(tokenizer, text)


@contextmanager
def _refuse_template_errors() -> Iterator[None]:
    """Converts the error of a template, such as one that it raises itself, to an `InputError`."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"the chat template refuses it ({error})") from error


def _special_tokens(config: Path) -> dict[str, str]:
    """The special tokens that a template may name, from the `tokenizer_config.json`."""
    values = load_json(config) if config.is_file() else {}
    found = {}
    for role in ROLES:
        token = values.get(f"{role}_token")
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            found[f"{role}_token"] = name
    return found
