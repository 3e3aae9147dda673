"""The dense peak FLOP/s of GPUs, from their vendors; MFU is a fraction of it.

Datasheets often print tensor-core rates with 2:4 sparsity, twice the rate of dense products; the
rates here are dense. ``fp32`` is the rate of torch's fp32 products: TF32 is off by default
(``torch.backends.cuda.matmul.allow_tf32``), so it is the rate of the plain fp32 units; on AMD's
Instinct it is the rate of the fp32 matrix units, which AMD's library uses. ``bf16`` is the rate
with fp32 accumulation.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """The dense peak of one GPU, in TFLOP/s, and its source."""

    words: str
    """A device name must contain all of these words; of several such entries, the one with the
    most words is used."""
    bf16: float | None
    """None where the GPU has no bf16 matrix units."""
    fp32: float
    source: str


_A100 = "NVIDIA A100 datasheet"
_H100 = "NVIDIA H100 datasheet (sparse figure halved)"
_H200 = "NVIDIA H200 datasheet (sparse figure halved)"
_BLACKWELL = "NVIDIA GB200 NVL72 and HGX B200 datasheet (sparse figure halved)"
_V100 = "NVIDIA V100 datasheet"
_ADA = "NVIDIA Ada architecture whitepaper, appendix A"
_MI250 = "AMD Instinct MI200 datasheet; torch lists each of the two dies as a device, so half"
_MI300 = "AMD Instinct {} datasheet"

PEAKS: tuple[Peak, ...] = (
    Peak("V100", None, 15.7, _V100),
    Peak("V100 PCIE", None, 14.0, _V100),
    Peak("V100S PCIE", None, 16.4, _V100),
    Peak("T4", None, 8.1, "NVIDIA T4 datasheet"),
    Peak("A100", 312.0, 19.5, _A100),
    Peak("A800", 312.0, 19.5, "NVIDIA A800 datasheet"),
    Peak("A40", 149.7, 37.4, "NVIDIA A40 datasheet"),
    Peak("A30", 165.0, 10.3, "NVIDIA A30 datasheet"),
    Peak("A10", 125.0, 31.2, "NVIDIA A10 datasheet"),
    Peak("A10G", 70.0, 35.0, "NVIDIA A10G datasheet, as published by AWS"),
    Peak("RTX A6000", 154.8, 38.7, "NVIDIA RTX A6000 datasheet (sparse figure halved)"),
    Peak("L4", 121.0, 30.3, "NVIDIA L4 datasheet (sparse figure halved)"),
    Peak("L40", 181.05, 90.5, "NVIDIA L40 datasheet"),
    Peak("L40S", 362.05, 91.6, "NVIDIA L40S datasheet"),
    Peak("H100", 989.4, 66.9, _H100),
    Peak("H100 PCIE", 756.0, 51.0, _H100),
    Peak("H100 NVL", 835.5, 60.0, _H100),
    Peak("H800", 989.4, 66.9, "NVIDIA H800 datasheet (sparse figure halved)"),
    Peak("H20", 148.0, 44.0, "NVIDIA H20 datasheet"),
    Peak("H200", 989.4, 66.9, _H200),
    Peak("H200 NVL", 835.5, 60.0, _H200),
    Peak("GH200", 989.4, 66.9, "NVIDIA GH200 datasheet (sparse figure halved)"),
    Peak("B200", 2250.0, 75.0, _BLACKWELL),
    Peak("GB200", 2500.0, 80.0, _BLACKWELL),
    Peak("RTX 3090", 71.2, 35.6, "NVIDIA Ampere GA102 whitepaper, appendix A"),
    Peak("RTX 4090", 165.2, 82.6, _ADA),
    Peak("RTX 6000 ADA", 364.2, 91.1, "NVIDIA RTX 6000 Ada datasheet (sparse figure halved)"),
    Peak("RTX 5090", 209.5, 104.8, "NVIDIA RTX Blackwell architecture whitepaper, appendix A"),
    Peak("MI210", 181.0, 45.3, "AMD Instinct MI210 datasheet"),
    # MI250X stands first, because ROCm names both cards "MI250X / MI250".
    Peak("MI250X", 191.5, 47.85, _MI250),
    Peak("MI250", 181.05, 45.25, _MI250),
    Peak("MI300A", 980.6, 122.6, _MI300.format("MI300A")),
    Peak("MI300X", 1307.4, 163.4, _MI300.format("MI300X")),
    Peak("MI325X", 1307.4, 163.4, _MI300.format("MI325X")),
)

_OTHER_CHIPS = {"MIG", "LAPTOP", "D", "TI", "SUPER", "MAX"}
"""Words in the names of different, smaller devices, which have no entry."""


def peak_flops(device_name: str, precision: str) -> float | None:
    """The dense peak of a GPU, in FLOP/s; None if it is not in the table.

    Args:
        device_name: The name that torch returns, such as ``NVIDIA H100 80GB HBM3``.
        precision: ``bf16`` or ``fp32``.
    """
    entry = find_peak(device_name)
    if entry is None:
        return None
    teraflops = {"bf16": entry.bf16, "fp32": entry.fp32}[precision]
    return None if teraflops is None else teraflops * 1e12


def find_peak(device_name: str) -> Peak | None:
    """The entry of a GPU, by the words of its name; None if there is none."""
    words = {word for word in re.split(r"[^A-Z0-9]+", device_name.upper()) if word}
    if words & _OTHER_CHIPS:
        return None
    matching = [entry for entry in PEAKS if set(entry.words.split()) <= words]
    return max(matching, key=lambda entry: len(entry.words.split()), default=None)
