"""Checks that corpora, tokenizer and model fit together, before any rank starts. No torch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bigtrain.config import ConfigError, RunConfig
from bigtrain.data.corpora import AnySource, build_sample_order, open_source
from bigtrain.data.label_source import LabelSource, check_label_names, check_objective_labels
from bigtrain.data.pair_rows import check_special_ids
from bigtrain.data.phase_record import PhaseRecord, record_phases
from bigtrain.data.split_facts import find_leak
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
            source.check_files()
        tokenizer = check_sources(config, sources, validations)
        build_sample_order(config, sources)
        return CheckedData(tokenizer, record_phases(config, sources))
    finally:
        for source in (*sources, *validations):
            source.close()


def open_sources(config: RunConfig) -> tuple[list[AnySource], list[AnySource]]:
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
    config: RunConfig, sources: Sequence[AnySource], validations: Sequence[AnySource]
) -> Tokenizer:
    """Checks that opened corpora fit each other, the tokenizer and the model.

    Returns:
        The run's tokenizer.

    Raises:
        ConfigError: They do not fit.
        InputError: The tokenizer cannot be read, or lacks an id that the samples are built with.
    """
    _check_no_leak(sources, validations, is_apart=config.data.validation_is_apart)
    labelled = [it for it in (*sources, *validations) if isinstance(it, LabelSource)]
    check_label_names(labelled)
    if config.is_classifier:
        check_objective_labels(config.objective.labels, labelled[0])
    path = (
        Path(config.data.tokenizer)
        if config.data.tokenizer is not None
        else sources[0].local_tokenizer()
    )
    tokenizer = load_tokenizer(path)
    for source in (*sources, *validations):
        sha256 = source.tokenizer_sha256
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


def _key(config: RunConfig, source: AnySource) -> str:
    if source.name in config.data.validation_corpora:
        return "data.validation"
    return "data.train" if config.data.train is not None else "data.stages: corpus"


def _check_no_leak(
    sources: Sequence[AnySource], validations: Sequence[AnySource], *, is_apart: bool
) -> None:
    """Checks that no text is in both training and validation, as far as manifests show it."""
    _check_named_once(sources)
    _check_named_once(validations)
    for source, validation in product(sources, validations):
        trained, measured = source.split_facts, validation.split_facts
        problem = find_leak(trained, measured)
        if problem and not (is_apart and trained.fingerprint != measured.fingerprint):
            raise ConfigError(
                f"data.validation={validation.name} may hold text of {source.name}: {problem}, "
                "or set data.validation_is_apart=true if you know that it does not"
            )


def _check_named_once(sources: Sequence[AnySource]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        fingerprint = source.split_facts.fingerprint
        if fingerprint in seen:
            raise ConfigError(
                f"{source.name} and {seen[fingerprint]} are the same corpus; name it once"
            )
        seen[fingerprint] = source.name
