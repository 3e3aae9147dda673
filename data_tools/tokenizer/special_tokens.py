"""The special ids of a tokenizer, which represent no text, and their usual names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

NONE = -1
"""The value of a special id that the tokenizer does not have."""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids that represent no text; -1 if the tokenizer has none. There is always an eos."""

    pad: int
    bos: int
    eos: int
    unk: int
    cls: int
    sep: int
    mask: int

    def present(self) -> dict[str, int]:
        """The ids that the tokenizer has, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: token_id for name, token_id in every.items() if token_id != NONE}


ROLES = tuple(field.name for field in fields(SpecialIds))

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}
"""The names of special tokens in published models. The end of a chat turn (`<|im_end|>`,
`<|eot_id|>`) is not the end of a document, so it is the eos only if the user chooses it."""
