"""A warning with the measured rates is logged if the CPU emulates bf16."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from bigtrain.parallel import bf16
from bigtrain.parallel.bf16 import find_slow_bf16, render_slow_bf16
from bigtrain.parallel.device import measure_product_rate


def test_a_slow_bf16_is_reported_with_both_rates_and_the_remedy() -> None:
    line = render_slow_bf16(fp32=80e9, bf16=3.2e9)
    assert line is not None
    assert "3.2 GFLOP/s in bf16 and 80.0 in fp32, 25.0 times as many" in line
    assert line.endswith("train.precision=fp32 is faster")


@pytest.mark.parametrize("bf16_rate", [60e9, 200e9])
def test_a_fast_bf16_is_not_reported(bf16_rate: float) -> None:
    assert render_slow_bf16(fp32=80e9, bf16=bf16_rate) is None


def test_the_measurement_is_real_and_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bf16, "SLOW_RATIO", 0.0)  # Every CPU counts as slow, and logs its rates.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Several would wait for each other on busy cores.
    asked: list[float] = []

    def measure(device: torch.device, dtype: torch.dtype, *, size: int, seconds: float) -> float:
        asked.append(seconds)
        return measure_product_rate(device, dtype, size=size, seconds=seconds)

    monkeypatch.setattr(bf16, "measure_product_rate", measure)
    line = find_slow_bf16(torch.device("cpu"))
    torch.set_num_threads(threads)
    assert line is not None
    assert " 0.0 GFLOP/s" not in line
    assert sum(asked) <= 0.2


def test_a_gpu_is_not_measured() -> None:
    assert find_slow_bf16(torch.device("meta")) is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN limits x86 instructions only")
def test_a_cpu_that_emulates_bf16_is_found_slow() -> None:
    measure = "import torch; from bigtrain.parallel.bf16 import find_slow_bf16 as find; "
    measure += "print(find(torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", measure],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("train.precision=bf16 is slow on this CPU: ")
