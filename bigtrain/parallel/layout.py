"""Where a rank sits in the pipeline × data × tensor grid. Pure arithmetic; no torch."""

from dataclasses import dataclass

from bigtrain.config import RunConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the grid, in megatron-core's order: tensor ranks are neighbours."""

    tensor: int
    pipeline: int
    data: int
    virtual: int = 1
    """Chunks of layers on each pipeline rank."""

    @property
    def world_size(self) -> int:
        """Ranks in the grid."""
        return self.tensor * self.pipeline * self.data

    def place(self, rank: int) -> "Place":
        """The coordinates of ``rank``."""
        assert 0 <= rank < self.world_size
        return Place(
            tensor=rank % self.tensor,
            data=rank // self.tensor % self.data,
            pipeline=rank // (self.tensor * self.data),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """One rank's coordinates in the grid."""

    tensor: int
    data: int
    pipeline: int


def layout_of(config: RunConfig, world_size: int) -> Layout:
    """The grid of a run on ``world_size`` ranks.

    Raises:
        ConfigError: The layout divides neither the world nor the batch.
    """
    return Layout(
        tensor=config.parallel.tensor,
        pipeline=config.parallel.pipeline,
        data=config.data_parallel_size(world_size),
        virtual=config.parallel.virtual_pipeline,
    )
