"""`train`: one attempt at a run, on one rank."""

import logging
from collections.abc import Sequence

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import layout_of
from bigtrain.environment import Ranks
from bigtrain.health.heartbeat import Heartbeat
from bigtrain.parallel.bf16 import find_slow_bf16
from bigtrain.parallel.groups import is_true_on_any_rank
from bigtrain.train.assemble import open_trainer
from bigtrain.train.attempt import Attempt, Outcome, stop_before_load
from bigtrain.train.stop import StopFlag

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    *,
    ranks: Ranks,
    device: torch.device,
    accept_changes: Sequence[str] = (),
    stop: StopFlag | None = None,
    heartbeat: Heartbeat | None = None,
) -> Outcome:
    """Trains, from the newest checkpoint of the run folder if it has one; every rank calls it.

    Args:
        config: The run, with the samples that a rewind skips (`resolve_run`).
        ranks: This process's rank, and the world size.
        device: From ``choose_device``, called before this module is imported: DeepSpeed chooses its
            accelerator at import.
        accept_changes: Keys that may differ from the checkpoint's, though they change the losses.
        stop: The flag of this process, if its signals are handled already.
        heartbeat: Where progress is reported.

    Raises:
        ConfigError: The config does not fit the data, the world size or the checkpoint, or is not
            the same on all ranks.
        CheckpointError: A checkpoint cannot be read or written.
        DivergedError: Too many updates in a row were skipped.
    """
    layout = layout_of(config, ranks.world_size)
    log.info(
        "%d ranks: tensor %d × pipeline %d × data %d, ZeRO %d, on %s with %d threads each",
        *(layout.world_size, layout.tensor, layout.pipeline, layout.data, layout.zero),
        *(device.type, torch.get_num_threads()),
    )
    if config.train.precision == "bf16" and ranks.rank == 0:
        slow = find_slow_bf16(device)
        if slow is not None:
            log.warning("%s", slow)
    # Before anything slow, so that a signal during a long load is handled.
    stop, heartbeat = stop or StopFlag(), heartbeat or Heartbeat()
    stop.begin_run(config.run_dir, watches_file=ranks.rank == 0)
    with open_trainer(
        config, ranks=ranks, device=device, accept_changes=accept_changes, heartbeat=heartbeat
    ) as trainer:
        if is_true_on_any_rank(stop.is_raised(), device):  # Loading may take minutes.
            return stop_before_load(config, stop)
        attempt = Attempt(trainer, stop=stop, accept_changes=accept_changes, heartbeat=heartbeat)
        return attempt.run()
