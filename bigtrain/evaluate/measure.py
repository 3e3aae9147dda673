"""Evaluates a checkpoint on corpora; runs in every rank."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist

from bigtrain.checkpoint.find_checkpoint import find_checkpoint
from bigtrain.checkpoint.loading import load_checkpoint
from bigtrain.checkpoint.schema import TOKENIZER_FILE
from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout, RankCoordinates, layout_of
from bigtrain.engine.engine import Engine
from bigtrain.environment import Ranks
from bigtrain.evaluate.figures import TokenSums, perplexity
from bigtrain.evaluate.progress import show_samples
from bigtrain.evaluate.request import MEASURED_FILE, read_request
from bigtrain.evaluate.samples import batches, open_samples
from bigtrain.evaluate.text_bytes import count_text
from bigtrain.models.build import build_chunks
from bigtrain.objectives.forward import make_forward_step
from bigtrain.objectives.masked_pairs import SENTENCE_COUNT
from bigtrain.objectives.objective import LOSS_SUM, WEIGHT_SUM, LossScales
from bigtrain.objectives.report_sums import ReportSums, sum_over_ranks
from bigtrain.objectives.table import objective_of
from bigtrain.parallel import groups
from bigtrain.parallel.schedule import Report
from data_tools.files import write_file
from data_tools.tokenizer import load_tokenizer

_BATCHES_BETWEEN_MEETINGS = 64


def evaluate_as_rank(
    folder: Path, config: RunConfig, *, ranks: Ranks, device: torch.device
) -> None:
    """Evaluates as one rank, and writes the figures on rank 0; every rank calls it.

    Args:
        folder: From `write_request`; rank 0 writes MEASURED_FILE into it.
        config: The config in it.
        ranks: This process's rank, and the number of ranks.
        device: From ``choose_device``.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        InputError: A corpus is damaged.
    """
    request, _ = read_request(folder)
    layout = layout_of(config, ranks.world_size)
    with groups.process_groups(ranks, layout, device) as coordinates, ExitStack() as opened:
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)
        opened.callback(engine.close)
        checkpoint, _ = groups.on_rank_zero(lambda: find_checkpoint(request.checkpoint))
        load_checkpoint(checkpoint, engine, weights_only=True)
        evaluation = _Evaluation(config, engine, layout, coordinates, device, folder)
        sums = [evaluation.measure(name, stride=request.stride) for name in request.corpora]
    if ranks.rank == 0:
        total = sums[0]
        for other in sums[1:]:
            total = total + other
        figures = [_figures(config, each) for each in (*sums, total)]
        write_file(folder / MEASURED_FILE, json.dumps(figures).encode())


class _Evaluation:
    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        layout: Layout,
        coordinates: RankCoordinates,
        device: torch.device,
        folder: Path,
    ) -> None:
        self._config, self._engine, self._layout = config, engine, layout
        self._coordinates, self._device = coordinates, device
        self._tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
        self._objective = objective_of(config)
        self._sizes = self._objective.report_sizes(config.model, measure=True)
        self._forward_step = make_forward_step(
            self._objective, config, device=device, scales=LossScales(), measure=True
        )
        is_first = coordinates.tensor == coordinates.pipeline == 0
        self._counts_text = is_first and not config.model.traits.reads_pairs

    def measure(self, name: str, *, stride: int) -> ReportSums:
        """The sums over a corpus; ``extra`` has its bytes and its document ends."""
        text = torch.zeros(2, dtype=torch.float64)
        with (
            open_samples(self._config, name, tokenizer=self._tokenizer, stride=stride) as samples,
            show_samples(name, samples.count, is_shown=dist.get_rank() == 0) as advance,
        ):

            def reports() -> Iterator[Report]:
                share = {"layout": self._layout, "data_rank": self._coordinates.data}
                own = batches(samples, self._config, **share)
                for number, (microbatches, counted) in enumerate(own, start=1):
                    yield from self._engine.evaluate(self._forward_step, microbatches)
                    if self._counts_text:
                        text.add_(torch.tensor(count_text(microbatches, self._tokenizer)))
                    advance(counted)
                    if number % _BATCHES_BETWEEN_MEETINGS == 0:
                        # The sum at the end waits ten minutes at most for a slower rank.
                        groups.is_true_on_any_rank(False, self._device)

            found = sum_over_ranks(
                reports(),
                self._objective,
                sizes=self._sizes,
                counts=self._coordinates.tensor == 0,
                device=self._device,
            )
        text = text.to(self._device)
        dist.all_reduce(text)
        return ReportSums(found.objective, found.values, text.tolist())


def _figures(config: RunConfig, sums: ReportSums) -> dict[str, float]:
    """The figures of the result file, which `bigtrain/README.md` describes."""
    values = sums.values
    if config.model.traits.reads_pairs:
        figures = sums.figures()
        return {
            "masked_tokens": int(values[WEIGHT_SUM][0]),
            "pairs": int(values[SENTENCE_COUNT][0]),
            **figures,
            "mlm_perplexity": perplexity(figures["mlm_loss"]),
        }
    size, ends = map(int, sums.extra)
    return TokenSums(values[LOSS_SUM][0], int(values[WEIGHT_SUM][0]), ends, size).figures()
