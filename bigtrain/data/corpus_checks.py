"""Checks that corpora, tokenizer and model fit together, before any rank starts. No torch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bigtrain.config import ConfigError, RunConfig
from bigtrain.data.corpora import Source, build_sample_order, open_source
from bigtrain.data.pair_rows import check_special_ids
from bigtrain.data.phase_record import PhaseRecord, record_phases
from data_tools.manifest import Manifest
from data_tools.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class CheckedData:
    """The tokenizer of a run and the records of its data phases."""

    tokenizer: Tokenizer
    phase_records: list[PhaseRecord]


def check_data(config: RunConfig) -> CheckedData:
    """Opens the corpora of ``config.data`` and checks that they fit each other and the model.

    Raises:
        ConfigError: A corpus is too short, its tokenizer or vocabulary is not the run's, or
            validation text may be among the training text.
        InputError: A corpus, a tar of it, or the tokenizer is missing or cannot be read.
    """
    sources, validations = open_sources(config)
    try:
        for source in (*sources, *validations):
            source.corpus.check_files()
        tokenizer = check_sources(config, sources, validations)
        build_sample_order(config, sources)
        return CheckedData(tokenizer, record_phases(config, sources))
    finally:
        for source in (*sources, *validations):
            source.close()


def open_sources(config: RunConfig) -> tuple[list[Source], list[Source]]:
    """Opens the training and the validation corpora, in the order of the config.

    Raises:
        ConfigError: A corpus is shorter than one sample.
        InputError: A corpus cannot be read.
    """
    data = config.data
    with ExitStack() as opened:
        sources = [opened.enter_context(open_source(data, name)) for name in data.training_corpora]
        validations = [
            opened.enter_context(open_source(data, name)) for name in data.validation_corpora
        ]
        opened.pop_all()  # Either all stay open, or none.
    return sources, validations


def check_sources(
    config: RunConfig, sources: Sequence[Source], validations: Sequence[Source]
) -> Tokenizer:
    """Checks that opened corpora fit each other, the tokenizer and the model.

    Returns:
        The run's tokenizer.

    Raises:
        ConfigError: They do not fit.
        InputError: The tokenizer cannot be read, or lacks an id that the samples are built with.
    """
    _check_no_leak(sources, validations, is_apart=config.data.validation_is_apart)
    first = sources[0].corpus
    path = (
        Path(config.data.tokenizer)
        if config.data.tokenizer is not None
        else first.local_file(first.manifest.tokenizer.file)
    )
    tokenizer = load_tokenizer(path)
    for source in (*sources, *validations):
        sha256 = source.corpus.manifest.tokenizer.sha256
        if sha256 != tokenizer.sha256:
            raise ConfigError(
                f"{_key(config, source)}={source.name}: made with tokenizer {sha256[:12]}, but "
                f"{path} is {tokenizer.sha256[:12]}; use the corpus's own tokenizer or shard the "
                "text again"
            )
    if tokenizer.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size}: the tokenizer {path} has "
            f"{tokenizer.vocab_size} tokens; set model.vocab_size={tokenizer.vocab_size}"
        )
    if config.model.traits.reads_pairs:
        check_special_ids(tokenizer.special, tokenizer=str(path))
    return tokenizer


def _key(config: RunConfig, source: Source) -> str:
    if source.name in config.data.validation_corpora:
        return "data.validation"
    return "data.train" if config.data.train is not None else "data.stages: corpus"


def _check_no_leak(
    sources: Sequence[Source], validations: Sequence[Source], *, is_apart: bool
) -> None:
    """Checks that no text is in both training and validation, as far as manifests show it."""
    _check_named_once(sources)
    _check_named_once(validations)
    for source, validation in product(sources, validations):
        trained, measured = source.corpus.manifest, validation.corpus.manifest
        problem = _leak(trained, measured)
        if problem and not (is_apart and trained.fingerprint != measured.fingerprint):
            raise ConfigError(
                f"data.validation={validation.name} may hold text of {source.name}: {problem}, "
                "or set data.validation_is_apart=true if you know that it does not"
            )


def _check_named_once(sources: Sequence[Source]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        fingerprint = source.corpus.manifest.fingerprint
        if fingerprint in seen:
            raise ConfigError(
                f"{source.name} and {seen[fingerprint]} are the same corpus; name it once"
            )
        seen[fingerprint] = source.name


def _leak(train: Manifest, measured: Manifest) -> str | None:
    """Why documents may be in both corpora; None if they cannot.

    A document goes to validation if a hash of its content, keyed by the seed, is below the
    percentage. Corpora split with the same seed therefore share no document, if training leaves
    out at least the percentage that validation takes.
    """
    if train.fingerprint == measured.fingerprint:
        return "they are the same corpus; give the validation split"
    if train.validation_percent is None or not measured.validation_percent:
        return None  # A corpus made by other means or never split: the manifest does not show it.
    if measured.split == "train":
        return (
            f"it is the training split that remains when {measured.validation_percent:g} % are "
            "taken for validation; give the validation split"
        )
    if train.seed != measured.seed and train.validation_percent:
        return (
            f"they were split with --seed {train.seed} and {measured.seed}, which select different "
            "documents; shard both with one seed"
        )
    if train.split == "validation" or train.validation_percent < measured.validation_percent:
        return (
            f"that is the {train.split} split made with --validation-percent "
            f"{train.validation_percent:g}, and data.validation was made with "
            f"{measured.validation_percent:g}; train on a training split made with this percentage "
            "or more"
        )
    return None
