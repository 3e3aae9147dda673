"""Builds a trainer from a config: process groups, data, model, engine, meter, profile."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from bigtrain.config import RunConfig
from bigtrain.config.layout import layout_of
from bigtrain.data.batches import TrainingData
from bigtrain.engine.deepspeed_version import check_deepspeed_version
from bigtrain.engine.engine import Engine
from bigtrain.environment import Ranks
from bigtrain.health.heartbeat import Heartbeat, Phase
from bigtrain.models.build import build_chunks
from bigtrain.objectives.table import objective_of
from bigtrain.parallel import groups
from bigtrain.train.agreement import check_config_agrees, check_data_agrees
from bigtrain.train.meter import Meter
from bigtrain.train.profile import ProfileWindow
from bigtrain.train.trainer import Trainer


@contextmanager
def open_trainer(
    config: RunConfig,
    *,
    ranks: Ranks,
    device: torch.device,
    accept_changes: Sequence[str] = (),
    measures_speed: bool = True,
    heartbeat: Heartbeat | None = None,
) -> Iterator[Trainer]:
    """Connects the ranks and builds this rank's trainer; closes both. Every rank calls it.

    The weights have storage, but no values yet.

    Args:
        config: The run.
        ranks: This process's rank, and the world size.
        device: From ``choose_device``.
        accept_changes: Keys that may differ from the checkpoint's; all ranks must agree on them.
        measures_speed: Whether the trainer measures MFU, memory and the parts of a step.
        heartbeat: Where phases are reported.

    Raises:
        ConfigError: The config does not fit the data or the world size, or is not the same on all
            ranks.
        RendezvousError: The ranks cannot connect.
    """
    check_deepspeed_version(config)
    layout = layout_of(config, ranks.world_size)
    reports = ranks.local_rank == 0  # One line per node is enough.
    heartbeat = heartbeat or Heartbeat()

    def check_config() -> None:
        check_config_agrees(config, accept_changes=accept_changes, reports=reports)
        heartbeat.enter(Phase.LOAD)

    heartbeat.enter(Phase.CONNECT)

    with (
        groups.process_groups(ranks, layout, device, after_connect=check_config) as coordinates,
        ExitStack() as opened,
    ):
        data = TrainingData(config, layout=layout, data_rank=coordinates.data)
        opened.callback(data.close)
        check_data_agrees(config, data, reports=reports)
        engine = Engine(config, build_chunks(config, layout), layout=layout, device=device)
        opened.callback(engine.close)
        profile = ProfileWindow(config.profile, run_dir=config.run_dir, rank=ranks.rank)
        opened.callback(profile.close)
        yield Trainer(
            config,
            objective=objective_of(config),
            engine=engine,
            data=data,
            layout=layout,
            coordinates=coordinates,
            device=device,
            meter=Meter(config, layout=layout, device=device) if measures_speed else None,
            profile=profile,
        )
