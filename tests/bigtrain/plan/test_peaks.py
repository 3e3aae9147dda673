"""The table of peak FLOP/s finds a GPU by the device name of torch."""

import pytest

from bigtrain.plan.peaks import PEAKS, find_peak, peak_flops


@pytest.mark.parametrize(
    ("device_name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA A10G", 70e12, 35e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H100 NVL", 835.5e12, 60e12),
        ("NVIDIA H200", 989.4e12, 66.9e12),
        ("NVIDIA GH200 480GB", 989.4e12, 66.9e12),
        ("NVIDIA B200", 2250e12, 75e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362.05e12, 91.6e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
        ("NVIDIA RTX 6000 Ada Generation", 364.2e12, 91.1e12),
        ("Tesla V100S-PCIE-32GB", None, 16.4e12),
        ("AMD Instinct MI250X / MI250", 191.5e12, 47.85e12),
        ("AMD Instinct MI300X", 1307.4e12, 163.4e12),
    ],
)
def test_a_gpu_is_found_by_its_name(device_name: str, bf16: float | None, fp32: float) -> None:
    assert peak_flops(device_name, "bf16") == (bf16 and pytest.approx(bf16))
    assert peak_flops(device_name, "fp32") == pytest.approx(fp32)


@pytest.mark.parametrize(
    "device_name",
    [
        "cpu",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H1000",
    ],
)
def test_a_similar_device_name_is_not_found(device_name: str) -> None:
    assert peak_flops(device_name, "bf16") is None


def test_every_entry_names_its_source_and_is_found_by_its_own_name() -> None:
    assert all(entry.source and find_peak(entry.words) is entry for entry in PEAKS)
