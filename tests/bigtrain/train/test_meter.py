"""The meter's figures: MFU and HFU, the time of each phase, and peak memory."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bigtrain.config import RunConfig
from bigtrain.plan.flops import model_flops
from tests.ranks import run_ranks
from tests.runs import tiny_config

PEAK_TFLOPS = 0.5


def _config(folder: Path, **sections: Any) -> RunConfig:
    return tiny_config(folder, folder, **{"track": {"peak_tflops": PEAK_TFLOPS}, **sections})


def _meter(config: RunConfig, *, tensor: int = 1, data: int = 1) -> Any:
    import torch

    from bigtrain.config.layout import Layout
    from bigtrain.train.meter import Meter

    layout = Layout(tensor=tensor, data=data)
    return Meter(config, layout=layout, device=torch.device("cpu"))


def _microbatches(*shapes: tuple[int, int]) -> list[Any]:
    import torch

    return [SimpleNamespace(tokens=torch.zeros(shape, dtype=torch.int64)) for shape in shapes]


def test_mfu_is_model_flops_over_the_peak_of_all_devices(tmp_path: Path) -> None:
    config = _config(tmp_path, train={"recompute": "full"})
    meter = _meter(config, tensor=2, data=3)
    numbers = meter.end_step(seconds=0.25, tokens=768, microbatches=_microbatches((2, 32), (2, 32)))
    flops, samples = model_flops(config), 2 * 2 * 3
    seconds_at_peak = samples / (6 * PEAK_TFLOPS * 1e12)
    assert numbers["mfu"] == pytest.approx(flops.model * seconds_at_peak / 0.25)
    assert numbers["hfu"] == pytest.approx(flops.hardware * seconds_at_peak / 0.25)
    assert numbers["hfu"] > 1.25 * numbers["mfu"]
    assert numbers["tflops_per_device"] == pytest.approx(numbers["mfu"] * PEAK_TFLOPS)
    assert numbers["tokens_per_second_per_device"] == 768 / 0.25 / 6
    assert numbers["memory_gb"] > 0.01


def test_sentence_pairs_count_at_their_padded_length(tmp_path: Path) -> None:
    config = _config(tmp_path, model={"kind": "bert"}, data={"packing": "pairs"})
    numbers = _meter(config).end_step(
        seconds=1.0, tokens=7, microbatches=_microbatches((2, 16), (2, 24))
    )
    expected = sum(2 * model_flops(config, sequence_length=length).model for length in (16, 24))
    assert numbers["mfu"] == pytest.approx(expected / (PEAK_TFLOPS * 1e12))


def test_the_time_of_a_step_is_split_into_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bigtrain.train import meter as module

    meter = _meter(_config(tmp_path))
    clock = iter([10.0, 11.0, 15.0, 15.5])
    monkeypatch.setattr(module, "mark_time", lambda _: next(clock))
    for part in module.STEP_PARTS:
        meter.begin(part)
    numbers = meter.end_step(seconds=10.0, tokens=1, microbatches=_microbatches((2, 32)))
    shares = {name: value for name, value in numbers.items() if name.endswith("_share")}
    assert shares == {"data_share": 0.1, "forward_backward_share": 0.4, "optimizer_share": 0.05}
    after = meter.end_step(seconds=10.0, tokens=1, microbatches=_microbatches((2, 32)))
    assert not [name for name in after if name.endswith("_share")]


def test_the_time_of_a_checkpoint_is_reported_once_with_the_next_step(tmp_path: Path) -> None:
    meter = _meter(_config(tmp_path))
    for _ in range(2):
        with meter.between_steps("checkpoint"):
            time.sleep(0.01)
    numbers = [
        meter.end_step(seconds=1.0, tokens=1, microbatches=_microbatches((2, 32))) for _ in range(2)
    ]
    assert 0.02 <= numbers[0]["checkpoint_seconds"] < 1.0
    assert "checkpoint_seconds" not in numbers[1]


def test_a_step_is_metered_in_less_than_half_a_millisecond(tmp_path: Path) -> None:
    from bigtrain.train.meter import STEP_PARTS

    meter, microbatches = _meter(_config(tmp_path)), _microbatches((2, 32), (2, 32))

    def seconds() -> float:
        started = time.perf_counter()
        for part in STEP_PARTS:
            meter.begin(part)
        meter.end_step(seconds=1.0, tokens=1, microbatches=microbatches)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(50)) < 5e-4


def peak_of_a_rank(config: RunConfig) -> tuple[float, float]:
    """The peak FLOP/s that this rank measures, and the seconds of the measurement."""
    import torch
    import torch.distributed as dist

    from bigtrain.config.layout import Layout
    from bigtrain.environment import read_ranks
    from bigtrain.train.meter import find_total_peak_flops

    ranks = read_ranks()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.world_size)
    layout = Layout(data=ranks.world_size)
    started = time.perf_counter()
    peak = find_total_peak_flops(config, layout=layout, device=torch.device("cpu"))
    seconds = time.perf_counter() - started
    dist.barrier()
    dist.destroy_process_group()
    assert peak is not None
    return peak, seconds


def test_on_cpu_all_ranks_get_the_same_measured_peak(tmp_path: Path) -> None:
    config = _config(tmp_path, track={"peak_tflops": None})
    found = run_ranks(peak_of_a_rank, 2, config)
    assert found[0][0] == found[1][0] > 1e8


def test_the_memory_peak_grows_with_held_memory_and_can_be_reset() -> None:
    import torch

    from bigtrain.parallel.device import peak_memory_bytes, reset_peak_memory

    device = torch.device("cpu")
    if not reset_peak_memory(device):
        pytest.skip("the peak memory cannot be reset on this system")
    before = peak_memory_bytes(device)
    held = torch.ones(50_000_000)
    assert peak_memory_bytes(device) - before > 0.9 * held.nbytes
    del held
    assert peak_memory_bytes(device) - before > 190_000_000
    assert reset_peak_memory(device)
    assert peak_memory_bytes(device) - before < 50_000_000
