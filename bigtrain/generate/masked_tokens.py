"""Fills the masked tokens of texts with a BERT."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from bigtrain.generate.errors import GenerationError
from bigtrain.generate.load_folder import load_folder
from bigtrain.generate.prompts import Prompt
from bigtrain.generate.results import FilledMask, FilledText


class MaskModel:
    """A BERT in a folder of Hugging Face, and its tokenizer."""

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        """Loads the model.

        Args:
            folder: A folder that AutoModelForMaskedLM and AutoTokenizer load.
            name: What the user calls it, for messages; by default the folder.

        Raises:
            GenerationError: The folder is not such a model.
        """
        self._model, self._tokenizer = load_folder(
            folder, AutoModelForMaskedLM, is_right=_has_masks, name=name or str(folder)
        )

    @torch.no_grad()
    def fill(self, prompts: Sequence[Prompt], *, candidates: int) -> list[FilledText]:
        """Finds the most likely tokens at each mask of each text.

        Args:
            prompts: Texts that contain the tokenizer's mask token.
            candidates: How many tokens to find for each mask.

        Returns:
            One for each prompt; the masks of a text are filled independently of each other.

        Raises:
            GenerationError: A prompt has no mask, is a conversation, or is too long; nothing was
                filled.
        """
        found = []
        for prompt, ids in [(prompt, self._encode(prompt)) for prompt in prompts]:
            tokens = torch.tensor([ids])
            logits = self._model(tokens, attention_mask=torch.ones_like(tokens)).logits[0]
            chances = logits[tokens[0] == self._tokenizer.mask_token_id].softmax(dim=-1)
            best = chances.topk(min(candidates, chances.shape[-1]))
            masks = [
                FilledMask(tuple(self._tokenizer.decode([each]) for each in row), tuple(values))
                for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            found.append(FilledText(prompt, tuple(masks)))
        return found

    def _encode(self, prompt: Prompt) -> list[int]:
        ids: list[int] = self._tokenizer(prompt.text)["input_ids"]
        limit = self._model.config.max_position_embeddings
        if prompt.messages or self._tokenizer.mask_token_id not in ids:
            raise GenerationError(f"{prompt.name} has no {self._tokenizer.mask_token} to fill")
        if len(ids) > limit:
            raise GenerationError(
                f"{prompt.name} has {len(ids)} tokens, but the model reads at most {limit} tokens: "
                "shorten it"
            )
        return ids


def _has_masks(architecture: str) -> str | None:
    """Why models of an architecture cannot fill masks; None if they can."""
    if "Bert" in architecture and architecture.endswith(("PreTraining", "MaskedLM")):
        return None
    return f"a {architecture} does not predict masked tokens; leave out --fill-mask, or give a BERT"
