"""The record of the data in a checkpoint: which corpora are read from which sample on, and how.

The record is small, because the order of samples is a pure function of it. Compared with the
config of the run that resumes, it shows whether the samples read so far are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.data import SkipConfig, merge_skips
from bigtrain.data.corpora import AnySource, samples_per_unit
from bigtrain.data.mixture import UNITS_PER_BLOCK
from bigtrain.data.sample_order import number_samples, plan_phases

PhaseRecord = dict[str, Any]

ORDER_VERSION = 1
"""Version of the functions that compute the order, such as the size of blocks."""


def record_phases(config: RunConfig, sources: Sequence[AnySource]) -> list[PhaseRecord]:
    """Describes the data phases of a run, as JSON."""
    data = config.data
    records = []
    for phase, planned in zip(
        data.phases, plan_phases(data, samples_per_unit=samples_per_unit(config)), strict=True
    ):
        weights = {source.corpus: source.weight for source in phase.sources}
        records.append(
            {
                "first_sample": phase.start_sample,
                "sources": [
                    {
                        "corpus": source.name,
                        "fingerprint": source.fingerprint,
                        "weight": weights[source.name],
                        "count": count,
                    }
                    for source, count in zip(sources, planned.counts, strict=True)
                    if count
                ],
                "order": ORDER_VERSION,
                "sequence_length": data.sequence_length,
                "packing": data.packing,
                "samples_per_unit": samples_per_unit(config),
                # Rows of a table are not neighbours in the stream: they are always permuted freely.
                "shuffle": data.shuffle if data.packing == "concat" else "windows",
                "skip": [[skip.first_sample, skip.samples] for skip in data.skip],
            }
        )
    return records


def check_phases(
    before: Sequence[PhaseRecord],
    now: Sequence[PhaseRecord],
    *,
    consumed: int,
    where: str,
    otherwise: str = "give the new run another name",
) -> None:
    """Checks that the samples consumed so far are the same in both records.

    Args:
        before: The records in the checkpoint.
        now: The records of the run that resumes.
        consumed: Number of samples trained on.
        where: Where the first records come from, for the message.
        otherwise: The remedy besides setting the values back, for the message.

    Raises:
        ConfigError: The consumed samples differ; the message names the value.
    """
    if not consumed:
        return
    before, now = [_upgraded(record) for record in before], [_upgraded(record) for record in now]
    last = _last_sample(before, consumed)
    old, new = _past(before, last), _past(now, max(last, _last_sample(now, consumed)))
    for name, was in old.items():
        if new[name] != was:
            raise ConfigError(
                f"{where}: samples 0 to {last} ({consumed} trained on, {last + 1 - consumed} "
                f"skipped) had {name} {_shown(was)}, this config has {_shown(new[name])}; set it "
                f"back, or {otherwise} (values for later samples may change freely)"
            )


def _last_sample(records: Sequence[PhaseRecord], consumed: int) -> int:
    """The number of the sample that was trained on last."""
    return int(number_samples(np.array([consumed - 1]), _skips(records))[0])


def _skips(records: Sequence[PhaseRecord]) -> list[SkipConfig]:
    return [SkipConfig(first_sample=first, samples=count) for first, count in records[-1]["skip"]]


def _shown(value: Any) -> str:
    """Renders a value for a message; corpora by name, weight and start of the fingerprint."""
    if isinstance(value, _Mixtures):
        return value.shown
    return str(value)


@dataclass(frozen=True, slots=True)
class _Mixtures:
    """The mixtures of all phases; equal if fingerprints, counts and their order are equal."""

    counts: tuple[tuple[tuple[str, int], ...], ...]
    shown: str = field(compare=False)


def _mixtures(records: Sequence[PhaseRecord]) -> _Mixtures:
    sources = [record["sources"] for record in records]
    return _Mixtures(
        counts=tuple(tuple((s["fingerprint"], s["count"]) for s in some) for some in sources),
        shown=", then ".join(
            " + ".join(f"{s['weight']:g} × {s['corpus']} ({s['fingerprint'][:12]})" for s in some)
            for some in sources
        ),
    )


def _past(records: Sequence[PhaseRecord], last: int) -> dict[str, Any]:
    """The values that determine the samples up to ``last``, under the names of config keys."""
    past = [record for record in records if record["first_sample"] <= last]
    # Ranges that touch are the same as one range.
    skips = merge_skips(_skips(records))
    return {
        "order of version": past[0]["order"],
        "data.sequence_length": past[0]["sequence_length"],
        "data.packing": past[0]["packing"],
        "data.shuffle": past[0]["shuffle"],
        "train.global_batch_size (drawn together)": past[0]["samples_per_unit"],
        "data.skip": [[s.first_sample, s.samples] for s in skips if s.first_sample <= last],
        "data.stages that start at samples": [record["first_sample"] for record in past],
        "corpora": _mixtures(past),
    }


def _upgraded(record: PhaseRecord) -> PhaseRecord:
    """The record in the current format; the first format had one corpus and no packing."""
    if "sources" in record:
        return record
    source = {
        "corpus": record["corpus"],
        "fingerprint": record["fingerprint"],
        "weight": 1.0,
        "count": UNITS_PER_BLOCK,
    }
    return {
        "first_sample": record["first_sample"],
        "sources": [source],
        "order": ORDER_VERSION,
        "sequence_length": record["sequence_length"],
        "packing": "concat",
        "samples_per_unit": 1,
        "shuffle": record["shuffle"],
        "skip": [],
    }
