"""A model of transformers that continues texts, in fp32 on the CPU."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteriaList

from bigtrain.generate.errors import GenerationError
from bigtrain.generate.load_folder import load_folder
from bigtrain.generate.options import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NEW_TOKENS,
    DEFAULT_SEED,
    Decoding,
)
from bigtrain.generate.prompts import Prompt
from bigtrain.generate.results import Continuation, Finish
from bigtrain.generate.stop_strings import StopStrings, cut_at_stop
from bigtrain.generate.streaming import Streamer

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The ids of a prompt, and how many tokens are added."""

    prompt: Prompt
    text: str
    """The prompt as text; of messages, what the template makes of them."""
    ids: list[int]
    new_tokens: int


class TextModel:
    """A GPT in a folder of Hugging Face, and its tokenizer."""

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        """Loads the model.

        Args:
            folder: A folder that AutoModelForCausalLM and AutoTokenizer load.
            name: What the user calls it, for messages; by default the folder.

        Raises:
            GenerationError: The folder is not such a model.
        """
        self.name = name or str(folder)
        self._model, self._tokenizer = load_folder(
            folder, AutoModelForCausalLM, is_right=_continues_texts, name=self.name
        )
        # The defaults of a folder (often of sampling) do not change what the options mean.
        saved = self._model.generation_config
        self._ends = _as_list(saved.eos_token_id) or _as_list(self._tokenizer.eos_token_id)
        self._pad = next(
            (i for i in (self._tokenizer.pad_token_id, *self._ends) if i is not None), 0
        )
        self._model.generation_config = GenerationConfig(
            eos_token_id=self._ends or None, pad_token_id=self._pad
        )
        self._limit: int | None = getattr(self._model.config, "max_position_embeddings", None)

    def check_template(self) -> None:
        """Checks that the tokenizer can render messages.

        Raises:
            GenerationError: It has no chat template.
        """
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise GenerationError(
                f"{self.name}: its tokenizer has no chat template, so messages have no form that "
                "the model was trained on; give texts, or copy the chat_template.jinja of the "
                "label table into an exported folder"
            )

    def continue_prompts(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Continuation]:
        """Continues prompts; a text does not depend on the other prompts.

        Prompts are padded on the left to the longest of their batch. Sampled prompts are
        continued one at a time, each from the same seed, because a batch shares random numbers.

        Args:
            prompts: The prompts.
            decoding: How tokens are chosen.
            batch_size: Prompts in a batch.

        Returns:
            ``decoding.num_return`` texts for each prompt, in the order of the prompts.

        Raises:
            GenerationError: A prompt is too long for the model, or has messages and there is no
                template; nothing was generated.
        """
        encoded = self._encode_all(prompts, decoding)
        found: dict[int, list[Continuation]] = {}
        groups: dict[int, list[int]] = defaultdict(list)
        for at, each in enumerate(encoded):
            groups[each.new_tokens].append(at)
        for group in groups.values():
            for batch in _parts(group, 1 if decoding.sample else batch_size):
                texts = self._generate([encoded[at] for at in batch], decoding)
                found |= dict(zip(batch, texts, strict=True))
        return [text for at in range(len(encoded)) for text in found[at]]

    def stream_prompts(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        write: Callable[[str], Any],
        *,
        begin: Callable[[Prompt], Any] = lambda _: None,
    ) -> Iterator[Continuation]:
        """Continues prompts one after another, and writes each token's text when it is certain.

        Args:
            prompts: The prompts.
            decoding: How tokens are chosen, without beams.
            write: Receives the parts of the texts, without the prompts.
            begin: Receives each prompt before the first part of its text.

        Raises:
            GenerationError: See `continue_prompts`; raised before anything is written.
        """
        for each in self._encode_all(prompts, decoding):
            begin(each.prompt)
            streamer = Streamer(
                self._decode, write, stop=decoding.stop, is_byte=self._is_byte_token
            )
            [[found]] = self._generate([each], decoding, streamer)
            yield found

    def _encode_all(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[_Encoded]:
        encoded, too_long = [], []
        for prompt in prompts:
            text, ids = self._encode(prompt)
            room = DEFAULT_NEW_TOKENS if self._limit is None else self._limit - len(ids)
            wanted = decoding.max_new_tokens or max(1, min(DEFAULT_NEW_TOKENS, room))
            if self._limit is not None and room < wanted:
                too_long.append(self._describe_length(prompt, len(ids), wanted))
            encoded.append(_Encoded(prompt, text, ids, wanted))
        if too_long:
            more = f" (and {len(too_long) - 1} more prompts)" if len(too_long) > 1 else ""
            raise GenerationError(f"{too_long[0]}{more}")
        return encoded

    def _describe_length(self, prompt: Prompt, length: int, wanted: int) -> str:
        remedy = "shorten it"
        if length < (self._limit or 0):
            remedy = f"shorten it or lower --max-new-tokens to {(self._limit or 0) - length}"
        return (
            f"{prompt.name} has {length} tokens and {wanted} are to be added, but the model reads "
            f"at most {self._limit} tokens: {remedy}"
        )

    def _encode(self, prompt: Prompt) -> tuple[str, list[int]]:
        if prompt.messages:
            self.check_template()
            messages = [dict(message) for message in prompt.messages]
            try:
                text = self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            except Exception as error:  # jinja2 raises many types; templates raise their own.
                reason = " ".join(str(error).split())[:200]
                raise GenerationError(
                    f"{prompt.name}: the chat template refuses the messages ({reason})"
                ) from None
            return text, self._tokenizer(text, add_special_tokens=False)["input_ids"]
        # A special token's name in a text stays text, as in training.
        encoded = self._tokenizer(prompt.text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        # In training an eos stood before each document, so eos begins a document.
        return prompt.text, encoded or self._ends[:1] or [self._pad]

    @torch.no_grad()
    def _generate(
        self, batch: Sequence[_Encoded], decoding: Decoding, streamer: Streamer | None = None
    ) -> list[list[Continuation]]:
        longest = max(len(each.ids) for each in batch)
        fills = [longest - len(each.ids) for each in batch]
        rows = [[self._pad] * fill + each.ids for fill, each in zip(fills, batch, strict=True)]
        masks = [[0] * fill + [1] * (longest - fill) for fill in fills]
        if decoding.sample:
            torch.manual_seed(DEFAULT_SEED if decoding.seed is None else decoding.seed)
        output = self._model.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(masks),
            generation_config=self._generation_config(decoding, batch[0].new_tokens),
            stopping_criteria=self._criteria(decoding, longest),
            streamer=streamer,
        )
        scores = getattr(output, "sequences_scores", None)
        made = output.sequences[:, longest:].tolist()
        texts = [
            self._continuation(
                batch[at // decoding.num_return],
                ids,
                decoding,
                number=at % decoding.num_return + 1,
                score=None if scores is None else float(scores[at]),
            )
            for at, ids in enumerate(made)
        ]
        return _parts(texts, decoding.num_return)

    def _criteria(self, decoding: Decoding, start: int) -> StoppingCriteriaList:
        found = [StopStrings(decoding.stop, self._decode, start=start)] if decoding.stop else []
        return StoppingCriteriaList(found)

    def _generation_config(self, decoding: Decoding, new_tokens: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=decoding.sample,
            temperature=decoding.temperature if decoding.temperature is not None else 1.0,
            top_k=decoding.top_k or 0,  # transformers' own default is 50.
            top_p=decoding.top_p if decoding.top_p is not None else 1.0,
            num_beams=decoding.num_beams,
            early_stopping=decoding.early_stopping,
            length_penalty=1.0 if decoding.length_penalty is None else decoding.length_penalty,
            num_return_sequences=decoding.num_return,
            repetition_penalty=decoding.repetition_penalty or 1.0,
            no_repeat_ngram_size=decoding.no_repeat_ngram or 0,
            return_dict_in_generate=True,
            output_scores=decoding.num_beams > 1,
        )

    def _continuation(
        self,
        asked: _Encoded,
        ids: list[int],
        decoding: Decoding,
        *,
        number: int,
        score: float | None,
    ) -> Continuation:
        kept = next((at for at, each in enumerate(ids) if each in self._ends), len(ids))
        whole = self._decode(ids[:kept])
        text = cut_at_stop(whole, decoding.stop)
        finish: Finish = "length" if kept == len(ids) else "eos"
        if text != whole:
            finish = "stop"
            while ids[kept - 1] == self._pad:  # The other texts of the batch went on.
                kept -= 1
        return Continuation(
            prompt=asked.prompt,
            text=text,
            prompt_tokens=len(asked.ids),
            new_tokens=kept,
            finish=finish,
            number=number,
            score=score,
        )

    def _is_byte_token(self, token_id: int) -> bool:
        return _BYTE_TOKEN.fullmatch(self._tokenizer.convert_ids_to_tokens(token_id)) is not None

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _continues_texts(architecture: str) -> str | None:
    """Why models of an architecture cannot continue a text; None if they can."""
    if architecture.endswith(("CausalLM", "LMHeadModel")):
        return None
    if "Bert" in architecture and architecture.endswith(("PreTraining", "MaskedLM")):
        return (
            f"a {architecture} predicts masked tokens and cannot continue a text; fill masks with "
            "--fill-mask 5, or give a GPT"
        )
    return f"a {architecture} cannot continue a text; give a model with a head for the next token"


def _parts(values: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(values[at : at + size]) for at in range(0, len(values), size)]


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
