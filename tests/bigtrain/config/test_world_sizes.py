"""The numbers of ranks that a config allows."""

import time

import pytest

from bigtrain.config.errors import ConfigError
from bigtrain.config.world_sizes import allowed_world_sizes, nearest_world_sizes
from tests.bigtrain.config.small_run import ConfigFolder


def test_the_data_ranks_divide_the_batch(folder: ConfigFolder) -> None:
    config = folder.load("train.global_batch_size=24", "train.micro_batch_size=2")
    assert allowed_world_sizes(config, 100) == (12, 6, 4, 3, 2, 1)
    assert allowed_world_sizes(config, 5) == (4, 3, 2, 1)
    assert allowed_world_sizes(config, 0) == ()


def test_the_ranks_are_a_multiple_of_one_copy_of_the_model(folder: ConfigFolder) -> None:
    config = folder.load("parallel.tensor=2", "parallel.pipeline=2", "train.global_batch_size=8")
    assert allowed_world_sizes(config, 15) == (8, 4)


def test_the_data_ranks_divide_the_batch_sizes_of_a_ramp(folder: ConfigFolder) -> None:
    ramp = "train.batch_ramp={start: 8, increment: 4, samples: 100}"
    config = folder.load("train.global_batch_size=24", "train.micro_batch_size=1", ramp)
    assert allowed_world_sizes(config, 24) == (4, 2, 1)


def test_every_allowed_number_passes_the_check_of_the_launch_and_no_other_does(
    folder: ConfigFolder,
) -> None:
    config = folder.load(
        *("parallel.pipeline=2", "parallel.virtual_pipeline=2", "model.num_layers=4"),
        *("train.global_batch_size=48", "train.micro_batch_size=2"),
    )
    allowed = allowed_world_sizes(config, 64)
    assert allowed == (24, 12, 8, 6, 4, 2)
    for size in set(range(1, 65)) - set(allowed):
        with pytest.raises(ConfigError):
            config.data_parallel_size(size)


def test_the_nearest_numbers_fill_whole_nodes(folder: ConfigFolder) -> None:
    config = folder.load("train.global_batch_size=24", "train.micro_batch_size=1")
    assert nearest_world_sizes(config, 20, 4) == (12, 24)
    assert nearest_world_sizes(config, 12, 4) == (12,)
    assert nearest_world_sizes(config, 6, 4) == (4, 8)
    assert nearest_world_sizes(config, 3, 8) == (8,)
    assert nearest_world_sizes(config, 100, 4) == (24,)


def test_there_is_no_nearest_number_if_none_fills_whole_nodes(folder: ConfigFolder) -> None:
    config = folder.load("train.global_batch_size=24", "train.micro_batch_size=1")
    assert nearest_world_sizes(config, 10, 5) == ()


def test_the_numbers_for_a_large_cluster_are_found_quickly(folder: ConfigFolder) -> None:
    config = folder.load("train.global_batch_size=16384", "train.micro_batch_size=1")
    started = time.perf_counter()
    assert len(allowed_world_sizes(config, 16384)) == 15
    assert nearest_world_sizes(config, 16000, 8) == (8192, 16384)
    assert time.perf_counter() - started < 2
