"""The config section `data`: corpora, mixtures, packing. Each key is documented here."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, model_validator

from bigtrain.config.model_kinds import Packing
from bigtrain.config.paths import HOLDS_PATHS, FolderPath
from bigtrain.config.sections import (
    PositiveFloat,
    PositiveInt,
    Section,
)

SampleNumber = Annotated[int, Field(ge=0, lt=2**62)]
SampleCount = Annotated[int, Field(gt=0, lt=2**62)]


class SourceConfig(Section):
    """One corpus of a mixture."""

    corpus: FolderPath
    """Corpus folder or fsspec URL."""
    weight: Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)] = 1.0
    """Its share of the samples, relative to the other weights of the phase; rounded to 1/16384."""


class PhaseConfig(Section):
    """A phase of training: the mixture of corpora from its first sample to the next phase."""

    start_sample: SampleNumber = 0
    """First sample of the phase, counted from the start of the run."""
    sources: Annotated[tuple[SourceConfig, ...], Field(strict=False, min_length=1, max_length=256)]
    """The corpora; reading of each continues where the previous phase stopped."""

    @model_validator(mode="after")
    def _names_each_corpus_once(self) -> "PhaseConfig":
        names = [source.corpus for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"a phase of data.stages names the corpus {name} twice; add up its weights"
                )
        return self


class SkipConfig(Section):
    """A range of samples that is skipped, for example because they made the loss spike."""

    first_sample: SampleNumber
    """The first sample to skip; `bigtrain data which` names the samples of a step."""
    samples: SampleCount
    """Number of samples to skip."""


def merge_skips(skips: Iterable[SkipConfig]) -> tuple[SkipConfig, ...]:
    """The same samples as ordered ranges that neither overlap nor touch."""
    merged: list[list[int]] = []
    for skip in sorted(skips, key=lambda skip: skip.first_sample):
        end = skip.first_sample + skip.samples
        if merged and skip.first_sample <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([skip.first_sample, end])
    return tuple(SkipConfig(first_sample=start, samples=end - start) for start, end in merged)


class MaskingConfig(Section):
    """Which tokens of a sentence pair BERT must predict (packing: pairs)."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Fraction of the tokens to predict: 80 % of them masked, 10 % replaced, 10 % unchanged."""
    max_ngram: Annotated[int, Field(ge=1, le=10)] = 1
    """Largest number of consecutive words masked together; n words have probability ∝ 1/n."""


_FOLDER = TypeAdapter(FolderPath)


def _folders(value: Any) -> str | tuple[str, ...] | None:
    """One folder, several or none; unlike a union, it reports a wrong value as one problem."""
    several = isinstance(value, list | tuple)
    names = list(value) if several else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str):
            raise ValueError("give data.validation a corpus folder, or a list of them")
        try:
            _FOLDER.validate_python(name)
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["ctx"]["error"])) from None
        if names.count(name) > 1:
            raise ValueError(f"{name} is listed twice; keep one")
    return tuple(names) if several else value


class DataConfig(Section):
    """Where tokens come from and how they become samples."""

    train: FolderPath | None = None
    """Corpus to train on: a folder (with a manifest.json) or fsspec URL; or give stages."""
    stages: Annotated[tuple[PhaseConfig, ...], Field(strict=False)] = ()
    """Phases with a mixture of corpora each, instead of train."""
    validation: Annotated[str | tuple[str, ...] | None, PlainValidator(_folders), HOLDS_PATHS] = (
        None
    )
    """Corpus folder for validation, or a list of them; each one is also measured separately."""
    tokenizer: FolderPath | None = None
    """Tokenizer that the corpora were made with. When not given: the one in the corpus."""
    sequence_length: PositiveInt
    """Tokens in one sample."""
    packing: Packing = "concat"
    """concat: windows of the token stream; bestfit: whole documents packed with little padding;
    pad: one document in each row; pairs: sentence pairs for BERT; these three need
    `bigtrain data samples` first. labels: labelled rows; answers: prompts and answers, packed;
    these two read tables of `bigtrain data label`."""
    document_attention: bool = False
    """With concat: attention stays inside a document and positions start at 0 in each document, as
    bestfit, pad and answers always do."""
    shuffle: Literal["blocks", "windows"] = "blocks"
    """blocks: neighbouring windows are read together, which is faster from object stores and disks;
    windows: all windows are permuted freely."""
    skip: Annotated[tuple[SkipConfig, ...], Field(strict=False)] = ()
    """Ranges of samples that are skipped."""
    masking: MaskingConfig = MaskingConfig()
    verify: Literal["touch", "off"] = "touch"
    """touch: the checksum of a pack is verified when it is first read; off: never."""
    workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads of each rank that read batches before their step; with 0 each step reads its own."""
    max_open_files: Annotated[int, Field(gt=0, le=65_536)] = 64
    """Tars that a rank keeps open at the same time, over all training corpora."""
    cache_dir: FolderPath | None = None
    """Node-local folder for pieces of remote corpora, shared by the ranks of a node. When not
    given: bigtrain-cache-UID in the system's folder for temporary files."""
    cache_gb: PositiveFloat = 32.0
    """Upper limit for the pieces of tars in the cache, in GB (1e9 bytes); copies of indexes and
    sample tables are not counted."""
    validation_is_apart: bool = False
    """Confirms that data.validation shares no text with the training corpora, when their manifests
    cannot show it or suggest the opposite."""

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases of the data mixture; with ``train``, one phase of one corpus."""
        if self.train is not None:
            return (PhaseConfig(sources=(SourceConfig(corpus=self.train),)),)
        return self.stages

    @property
    def draws_whole_batches(self) -> bool:
        """Whether all samples of a batch are drawn together, because their lengths are similar."""
        return self.packing == "pairs"

    @property
    def reads_label_tables(self) -> bool:
        """Whether samples come from tables of `bigtrain data label`, not from corpora."""
        return self.packing in ("labels", "answers")

    @property
    def separates_documents(self) -> bool:
        """Whether attention stays inside a document."""
        return self.document_attention or self.packing in ("bestfit", "pad", "answers")

    @property
    def validation_corpora(self) -> tuple[str, ...]:
        """All validation corpora."""
        given = self.validation or ()
        return (given,) if isinstance(given, str) else given

    @property
    def training_corpora(self) -> tuple[str, ...]:
        """All training corpora, each once, in order of appearance."""
        names = (source.corpus for phase in self.phases for source in phase.sources)
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _has_sources(self) -> "DataConfig":
        if (self.train is None) == (not self.stages):
            raise ValueError(
                "give either data.train (one corpus) or data.stages (mixtures), not both; "
                "data.train= removes the value that another file sets"
            )
        starts = [phase.start_sample for phase in self.phases]
        if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(
                f"data.stages start at samples {', '.join(map(str, starts))}: "
                "the first must start at 0, and each other one later than the one before it"
            )
        return self

    @model_validator(mode="after")
    def _skips_do_not_touch(self) -> "DataConfig":
        for one, other in pairwise(self.skip):
            if one.first_sample + one.samples > other.first_sample:
                raise ValueError(
                    f"data.skip: the range from sample {other.first_sample} begins before the one "
                    f"from {one.first_sample} ends; list them in order, without overlap"
                )
        return self

    @model_validator(mode="after")
    def _attention_fits_the_packing(self) -> "DataConfig":
        if self.document_attention and self.packing != "concat":
            raise ValueError(
                f"data.document_attention is for data.packing=concat, not {self.packing}; "
                "leave it out"
            )
        return self
