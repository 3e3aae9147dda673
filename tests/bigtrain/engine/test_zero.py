"""What each ZeRO stage partitions."""

import pytest

from bigtrain.config.sections import ParallelConfig
from bigtrain.engine.zero import ZeroStage, zero_stage


@pytest.mark.parametrize(
    ("zero", "stage", "partitions"),
    [
        (0, 1, (False, False, False)),
        (1, 1, (True, False, False)),
        (2, 2, (True, True, False)),
        (3, 3, (True, True, True)),
    ],
)
def test_each_stage_partitions_more_than_the_one_before(
    zero: int, stage: int, partitions: tuple[bool, bool, bool]
) -> None:
    assert zero_stage(ParallelConfig(zero=zero)) == ZeroStage(stage, *partitions)
