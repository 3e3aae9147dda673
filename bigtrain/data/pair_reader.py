"""Reads microbatches for BERT: masked sentence pairs of similar length."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bigtrain.config import RunConfig
from bigtrain.config.rules import PAIR_LENGTH_MULTIPLE
from bigtrain.data.corpora import Source
from bigtrain.data.corpus_order import Indices
from bigtrain.data.masking import plan_masking, sample_keys
from bigtrain.data.microbatch import PairMicrobatch, RankBatch
from bigtrain.data.pair_rows import PairRows, read_pairs
from bigtrain.data.sample_order import SampleLocations
from data_tools.tokenizer import Tokenizer


class PairReader:
    """Reads a rank's share of batches of sentence pairs from sample tables."""

    def __init__(self, config: RunConfig, *, tokenizer: Tokenizer) -> None:
        """Prepares the masking rules.

        Args:
            config: The run's config.
            tokenizer: The run's tokenizer.
        """
        self._seed, self._micro = config.seed, config.train.micro_batch_size
        self._special = tokenizer.special
        special = tokenizer.special
        self._rules = plan_masking(
            tokenizer.word_starts(),
            mask_id=special.mask,
            special_ids=tokenizer.special_ids(),
            masked_fraction=config.data.masking.fraction,
            max_ngram=config.data.masking.max_ngram,
        )

    def read(
        self,
        sources: Sequence[Source],
        locations: SampleLocations,
        *,
        own: Indices,
        is_counted: npt.NDArray[np.bool_] | None = None,
    ) -> RankBatch[PairMicrobatch]:
        """Reads a rank's share of a batch, padded to the longest pair of the whole batch.

        Args:
            sources: The corpora that ``locations`` refers to by number; a batch has one corpus.
            locations: Where the samples of the whole batch are.
            own: Indices of the samples that this rank reads, microbatch after microbatch.
            is_counted: ``[batch]``: which samples count in the loss; None if all do.
        """
        source = sources[int(locations.sources[0])]
        assert source.table is not None
        lengths = source.table.read(locations.rows).lengths.reshape(-1, 2).sum(axis=1) + 3
        here = locations[own]
        rows = read_pairs(
            source.corpus,
            source.table,
            here.rows,
            keys=sample_keys(
                seed=self._seed, epochs=here.epochs.tolist(), samples=here.numbers.tolist()
            ),
            special=self._special,
            masking=self._rules,
            padded_length=min(
                -(-int(lengths.max()) // PAIR_LENGTH_MULTIPLE) * PAIR_LENGTH_MULTIPLE,
                source.sequence_length,
            ),
        )
        counted = np.ones(len(own), dtype=np.bool_) if is_counted is None else is_counted[own]
        rows.weights[~counted] = 0.0
        shares = [slice(n, n + self._micro) for n in range(0, len(own), self._micro)]
        return RankBatch([_microbatch(rows, counted, share) for share in shares], None)


def _microbatch(rows: PairRows, counted: npt.NDArray[np.bool_], share: slice) -> PairMicrobatch:
    return PairMicrobatch(
        tokens=torch.from_numpy(rows.tokens[share]),
        token_types=torch.from_numpy(rows.token_types[share]),
        padding_mask=torch.from_numpy(rows.padding_mask[share]),
        targets=torch.from_numpy(rows.labels[share]),
        weights=torch.from_numpy(rows.weights[share]),
        is_random=torch.from_numpy(rows.is_random[share]),
        pair_weights=torch.from_numpy(counted[share]).float(),
    )
