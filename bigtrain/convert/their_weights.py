"""The safetensors files of a Hugging Face folder, read tensor by tensor.

A file is opened for each tensor and closed after it: otherwise the pages of all tensors that were
read would stay in resident memory.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bigtrain.checkpoint.hugging_face_folder import ImportRefusal

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Masks, positions and frequencies, which older versions of transformers saved as buffers.
_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)$"
)


@dataclass(frozen=True, slots=True)
class TheirTensor:
    """Where a tensor is, and what it is."""

    name: str
    """Its name in the file."""
    file: Path
    shape: tuple[int, ...]
    kind: str
    """Its type, as safetensors names it."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        return _FLOATS[self.kind]

    def read(self) -> torch.Tensor:
        """Reads it, as fp32."""
        with safe_open(self.file, "pt") as file:
            # A copy, because the tensor's memory is the mapped file.
            return file.get_tensor(self.name).to(torch.float32, copy=True)

    def read_rows(self, first: int, last: int) -> torch.Tensor:
        """Reads the rows from ``first`` to ``last``, exclusive, as fp32."""
        with safe_open(self.file, "pt") as file:
            return file.get_slice(self.name)[first:last].to(torch.float32, copy=True)


class TheirWeights:
    """The tensors of a Hugging Face folder by name, without buffers that are no weights."""

    def __init__(self, folder: Path, *, architecture: str) -> None:
        """Reads the headers of all files.

        Args:
            folder: The folder.
            architecture: The class of its model, for the message about pickled weights.

        Raises:
            ImportRefusal: There are no safetensors, a file is missing or damaged, or its name
                leads out of the folder.
        """
        self.folder = folder
        self.tensors: dict[str, TheirTensor] = {}
        self.buffers: list[str] = []
        index = folder / INDEX_FILE
        listed = _read_index(index) if index.is_file() else {}
        files = sorted(set(listed.values())) or [_single_file(folder, architecture)]
        for name in files:
            self._read_header(folder / name)
        present = {*self.tensors, *self.buffers}
        if absent := sorted(set(listed) - present):
            raise ImportRefusal(
                f"{index} lists {absent[0]}, which {listed[absent[0]]} does not hold"
                f"{_and_more(absent)}; download the folder again"
            )

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(
            torch.Size(tensor.shape).numel() * tensor.dtype.itemsize
            for tensor in self.tensors.values()
        )

    def _read_header(self, path: Path) -> None:
        if not path.is_file():
            raise ImportRefusal(f"{path} is missing; download the folder again")
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    tensor = TheirTensor(name, path, tuple(part.get_shape()), part.get_dtype())
                    self._add(tensor)
        except SafetensorError as error:
            raise ImportRefusal(
                f"{path} cannot be read ({str(error)[:120]}); download it again"
            ) from None

    def _add(self, tensor: TheirTensor) -> None:
        if _BUFFERS.search(tensor.name):
            self.buffers.append(tensor.name)
            return
        if tensor.kind not in _FLOATS:
            raise ImportRefusal(
                f"{tensor.file}: {tensor.name} is of type {tensor.kind}; weights are "
                f"{', '.join(_FLOATS)}"
            )
        if tensor.name in self.tensors:
            raise ImportRefusal(
                f"{tensor.file} and {self.tensors[tensor.name].file.name} both hold {tensor.name}; "
                "remove the file that is not of this model"
            )
        self.tensors[tensor.name] = tensor


def _single_file(folder: Path, architecture: str) -> str:
    if (folder / SINGLE_FILE).is_file():
        return SINGLE_FILE
    if pickled := next((path for glob in _PICKLED for path in sorted(folder.glob(glob))), None):
        raise ImportRefusal(
            f"{pickled}: pickled weights can run code, so they are not read; convert them where "
            f'you trust them: python -c "import transformers; transformers.{architecture}'
            f".from_pretrained('{folder}').save_pretrained('NEW_FOLDER')\", and copy the tokenizer"
        )
    raise ImportRefusal(f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}; download the weights")


def _read_index(path: Path) -> dict[str, str]:
    try:
        listed: Any = json.loads(path.read_text("utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImportRefusal(f"{path} has no weight_map ({error}); download it again") from None
    for name, file in names.items():
        _check_is_inside(path, name, file)
    if not names:
        raise ImportRefusal(f"{path} lists no tensors; download it again")
    return names


def _check_is_inside(path: Path, name: str, file: str) -> None:
    parts = Path(file).parts
    if Path(file).is_absolute() or ".." in parts or len(parts) != 1 or "\\" in file:
        raise ImportRefusal(
            f"{path}: the file of {name} is {file!r}, which is not a file of this folder; a "
            "folder's weights are in the folder itself"
        )
    if not file.endswith(".safetensors"):
        raise ImportRefusal(f"{path}: the file of {name} is {file!r}, which is not safetensors")


def _and_more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def canonical_names(
    tensors: Mapping[str, TheirTensor], *, prefix: str, known: set[str]
) -> dict[str, TheirTensor]:
    """Gives the tensors the names of the model with heads, in transformers' present spelling.

    A folder of the model without heads (BertModel) lacks the prefix; TensorFlow called the weights
    of norms gamma and beta.

    Args:
        tensors: By the names in the files.
        prefix: Of the names of the model with heads, except heads.
        known: The names that the model with heads has.
    """
    lacks_prefix = not any(name.startswith(prefix) for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        new = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new)
        if lacks_prefix and new not in known:
            new = f"{prefix}{new}"
        renamed[new] = tensor
    return renamed
