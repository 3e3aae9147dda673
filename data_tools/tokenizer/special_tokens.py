"""The ids that stand for no text, which every tokenizer and every corpus must agree on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

NONE = -1
"""What a special id is where the tokenizer has none."""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids that stand for no text; -1 where the tokenizer has none. There is always an eos."""

    pad: int
    bos: int
    eos: int
    unk: int
    cls: int
    sep: int
    mask: int

    def present(self) -> dict[str, int]:
        """Those that there are, by name."""
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
"""What models of the field call them. Ends of a chat turn (`<|im_end|>`, `<|eot_id|>`) are no ends
of a document, so they are eos only where somebody says so."""
