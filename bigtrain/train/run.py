"""One attempt at a run, on one rank: groups, data, model, engine, and then the loop."""

import logging
from collections.abc import Sequence

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import layout_of
from bigtrain.data.batches import TrainingData
from bigtrain.engine.engine import Engine
from bigtrain.environment import Ranks
from bigtrain.models.build import build_chunks
from bigtrain.objectives.table import objective_of
from bigtrain.parallel import groups
from bigtrain.parallel.bf16 import find_slow_bf16
from bigtrain.train.agreement import check_config_agrees, check_data_agrees
from bigtrain.train.attempt import Attempt, Outcome
from bigtrain.train.meter import Meter
from bigtrain.train.profile import ProfileWindow
from bigtrain.train.stop import StopFlag
from bigtrain.train.trainer import Trainer

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    *,
    ranks: Ranks,
    device: torch.device,
    accept_changes: Sequence[str] = (),
) -> Outcome:
    """Trains, from the newest checkpoint of the run folder if it has one; every rank calls it.

    Args:
        config: The run, with what it was rewound to leave out (`resolve_run`).
        ranks: Where this process stands.
        device: From ``choose_device``, called before this module was imported (DeepSpeed decides
            then what it runs on).
        accept_changes: Keys that may differ from the checkpoint's though the loss will feel it.

    Raises:
        ConfigError: The config does not fit the data, the world size or the checkpoint, or is not
            the same on all ranks.
        CheckpointError: A checkpoint cannot be read or written.
        DivergedError: Too many updates in a row were passed over.
    """
    layout = layout_of(config, ranks.world_size)
    log.info(
        "%d ranks: tensor %d × pipeline %d × data %d, ZeRO %d, on %s with %d threads each",
        *(layout.world_size, layout.tensor, layout.pipeline, layout.data, config.parallel.zero),
        *(device.type, torch.get_num_threads()),
    )
    if config.train.precision == "bf16" and ranks.rank == 0:
        slow = find_slow_bf16(device)
        if slow is not None:
            log.warning("%s", slow)
    # First of all: a signal during a long load must find its handler.
    stop = StopFlag(config.run_dir, watches_file=ranks.rank == 0)
    tells = ranks.local_rank == 0  # Once a node is enough.

    def agree() -> None:
        check_config_agrees(config, accept_changes=accept_changes, tells=tells)

    with groups.process_groups(ranks, layout, device, once_joined=agree) as coordinates:
        data = TrainingData(config, layout=layout, data_rank=coordinates.data)
        check_data_agrees(config, data, tells=tells)
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)
        profile = ProfileWindow(config.profile, run_dir=config.run_dir, rank=ranks.rank)
        trainer = Trainer(
            config,
            objective=objective_of(config.model),
            engine=engine,
            data=data,
            layout=layout,
            coordinates=coordinates,
            device=device,
            meter=Meter(config, layout=layout, device=device),
            profile=profile,
        )
        try:
            return Attempt(trainer, stop=stop, accept_changes=accept_changes).run()
        finally:
            profile.close()
            data.close()
            engine.close()
