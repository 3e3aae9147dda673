"""The manifest of a corpus folder: the contents of the folder and how it was made.

`manifest.json` is canonical JSON. Two runs of the same job write the same bytes, so its sha256,
the corpus fingerprint, identifies the tokens.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from data_tools.errors import InputError
from data_tools.files import load_json, render_json
from data_tools.tokenizer import SpecialIds

SCHEMA: Final = "bigtrain-tokens/1"
MANIFEST_NAME = "manifest.json"


class _Part(BaseModel):
    # A later version may add keys to the same schema; this version must still read the file.
    model_config = ConfigDict(frozen=True, extra="ignore")


class TokenizerInfo(_Part):
    """The tokenizer that made the ids."""

    sha256: str
    vocab_size: int
    special: SpecialIds
    file: str = "tokenizer.model"
    """The name of its copy in the corpus folder."""


class ShardInfo(_Part):
    """One tar: its size, hash and counts."""

    file: Annotated[str, Field(pattern=r"^[^/\x00]+$")]
    bytes: int
    sha256: str
    packs: int
    docs: int
    tokens: int
    sents: int = 0


class Totals(_Part):
    """Sums over all shards."""

    bytes: int
    packs: int
    docs: int
    tokens: int
    sents: int = 0
    """0 if the corpus was made without sentence starts."""


class InputInfo(_Part):
    """One source of text, before the split: counts of what was read and what was skipped."""

    source: str
    documents: int
    bytes: int
    skipped: int


class Manifest(_Part):
    """Everything in `manifest.json`."""

    corpus_schema: Literal["bigtrain-tokens/1"] = SCHEMA
    name: str
    split: str
    tokenizer: TokenizerInfo
    dtype: Literal["uint16", "uint32"]
    document_end: Literal["eos"] = "eos"
    shards: tuple[ShardInfo, ...]
    totals: Totals
    inputs: tuple[InputInfo, ...]
    tool_version: str
    seed: int
    validation_percent: float | None = None
    """The percentage of documents in the validation split; None if it is not known."""
    _fingerprint: str | None = PrivateAttr(default=None)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the manifest file."""
        return self._fingerprint or hashlib.sha256(render_manifest(self)).hexdigest()

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards, including the end-of-document tokens."""
        return self.totals.tokens

    @property
    def num_documents(self) -> int:
        """Documents in all shards."""
        return self.totals.docs

    @property
    def token_type(self) -> np.dtype[Any]:
        """The type of a token on disk, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """Chooses the smallest type for the ids of a vocabulary."""
    return "uint16" if vocab_size < 65_536 else "uint32"


def total_of(shards: tuple[ShardInfo, ...]) -> Totals:
    """Sums the counts of shards."""
    return Totals(
        bytes=sum(shard.bytes for shard in shards),
        packs=sum(shard.packs for shard in shards),
        docs=sum(shard.docs for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        sents=sum(shard.sents for shard in shards),
    )


def render_manifest(manifest: Manifest) -> bytes:
    """Makes the bytes of `manifest.json`."""
    values = manifest.model_dump(mode="json")
    return render_json({"schema": values.pop("corpus_schema"), **values})


def load_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a corpus folder.

    Raises:
        InputError: The folder or its manifest is missing, or this version cannot read it.
    """
    path = folder / MANIFEST_NAME
    if re.match(r"\w+:/", str(folder)):
        raise InputError(
            f"{folder} is a URL, which only training can read: give the folder where the files are"
        )
    if not folder.is_dir():
        raise InputError(
            f"no corpus folder at {folder} (paths start from the working folder): "
            "make one with `bigtrain data shard`"
        )
    if not path.is_file():
        raise InputError(_no_manifest(folder))
    values = load_json(path)
    schema = values.pop("schema", None) if isinstance(values, dict) else None
    if isinstance(schema, str) and schema.startswith("bigtrain-labels/"):
        raise InputError(
            f"{folder} is a label table, not a corpus: training reads it with data.packing=labels "
            "or answers"
        )
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}, and this version reads {SCHEMA!r}: "
            "use the version of bigtrain that wrote it, or shard the text again"
        )
    try:
        manifest = Manifest.model_validate({"corpus_schema": schema, **values})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{path}: {where}: {fault['msg']}; shard the text again") from error
    if manifest.totals != total_of(manifest.shards):
        raise InputError(f"{path}: totals are not the sum of the shards; restore the file")
    manifest._fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    return manifest


def _no_manifest(folder: Path) -> str:
    names = [manifest.parent.name for manifest in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    if names:
        return f"{folder} is not a corpus but contains some: give {' or '.join(names)} inside it"
    job = folder.parent if (folder.parent / "tasks").is_dir() else folder
    return (
        f"{folder} has no {MANIFEST_NAME}: if sharding was stopped, run the same command again; "
        f"after the last `--task` of an array, run `bigtrain data seal {job}`"
    )
