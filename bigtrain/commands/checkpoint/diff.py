"""`bigtrain checkpoint diff`: how two checkpoints differ, also of different layouts. No torch.

Only one tensor of each is in memory at a time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import KINDS, TrainState
from bigtrain.checkpoint.storage_folder import Folder
from bigtrain.commands.checkpoint.formatting import align_columns, show_read_progress
from bigtrain.config import ConfigError
from bigtrain.config.errors import show_value
from bigtrain.config.resume_rules import load_saved_config

_CHUNK = 2**20
"""Elements compared at a time, in fp64."""
_STATE = ("step", "samples", "tokens", "optimizer_steps", "tokenizer_sha256")


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """The difference of a tensor of B from the same tensor of A."""

    key: str
    same_bits: bool
    largest: float
    """Largest absolute difference; inf if a differing value is not finite."""
    norm: float
    """Euclidean norm of the difference."""
    norm_of_a: float

    @property
    def relative(self) -> float:
        """The norm of the difference divided by the norm of A's tensor."""
        return _ratio(self.norm, self.norm_of_a)


@dataclass(slots=True)
class Comparison:
    """The differences between checkpoints A and B."""

    a: Folder
    b: Folder
    state: list[tuple[str, Any, Any]]
    """The name and both values of each difference."""
    config: list[tuple[str, Any, Any]]
    only_in_a: list[str] = field(default_factory=list)
    only_in_b: list[str] = field(default_factory=list)
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    """The tensors that both have, with the same shape."""

    @property
    def same_bits(self) -> bool:
        """Whether both hold the same tensors, bit for bit."""
        others = self.only_in_a or self.only_in_b or self.shapes
        return not others and all(tensor.same_bits for tensor in self.tensors)


def compare_checkpoints(a: Folder, b: Folder) -> Comparison:
    """Compares state, config and every tensor.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    states, tables = [open_state(a), open_state(b)], [CheckpointReader(a), CheckpointReader(b)]
    ours, theirs = (table.tensors for table in tables)
    result = Comparison(
        a=a,
        b=b,
        state=_differences(*({name: getattr(s, name) for name in _STATE} for s in states)),
        config=_differences(*map(_flat_config, states)),
        only_in_a=[key for key in ours if key not in theirs],
        only_in_b=[key for key in theirs if key not in ours],
    )
    if states[0].data_stages != states[1].data_stages:
        result.state.append(("data_stages", "those of A", "those of B"))
    both = [key for key in ours if key in theirs]
    result.shapes = [
        (key, ours[key].shape, theirs[key].shape)
        for key in both
        if ours[key].shape != theirs[key].shape
    ]
    alike = [key for key in both if ours[key].shape == theirs[key].shape]
    with show_read_progress("comparing", 8 * sum(ours[key].numel for key in alike)) as advance:
        for key in alike:
            kind, _, name = key.partition("/")
            one, other = (table.read_tensor(kind, name) for table in tables)
            result.tensors.append(measure_difference(key, one, other))
            advance(8 * ours[key].numel)
    return result


def measure_difference(key: str, a: np.ndarray, b: np.ndarray) -> TensorDifference:
    """Measures the difference of ``b`` from ``a``. Pure.

    Equal bits count as equal, even if they are NaN.

    Args:
        key: The tensor's key.
        a: fp32, any shape.
        b: fp32, the same shape.
    """
    largest = squares = squares_of_a = 0.0
    same_bits = True
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(flat_a), _CHUNK):
        ours, theirs = (flat[start : start + _CHUNK] for flat in (flat_a, flat_b))
        values = ours.astype(np.float64)
        squares_of_a += _sum_of_squares(values)
        differs = ours.view(np.uint32) != theirs.view(np.uint32)
        if not differs.any():
            continue
        same_bits = False
        with np.errstate(invalid="ignore"):
            delta = np.abs(values[differs] - theirs[differs].astype(np.float64))
        delta[~np.isfinite(delta)] = math.inf
        largest = max(largest, float(delta.max()))
        squares += float(np.square(delta).sum())
    return TensorDifference(key, same_bits, largest, math.sqrt(squares), math.sqrt(squares_of_a))


def render_comparison(result: Comparison, *, top: int) -> Iterator[str]:
    """Renders the lines for the terminal.

    Args:
        result: The differences.
        top: How many of the tensors that differ most are shown.
    """
    yield f"A: {result.a}"
    yield f"B: {result.b}"
    for name, old, new in result.state:
        yield f"{name}: {_shown(old)} → {_shown(new)}"
    yield from (f"config {key}: {_shown(old)} → {_shown(new)}" for key, old, new in result.config)
    yield from (f"only in A: {key}" for key in result.only_in_a)
    yield from (f"only in B: {key}" for key in result.only_in_b)
    yield from (f"shape of {key}: {old} → {new}" for key, old, new in result.shapes)
    if result.tensors:
        yield from _render_kinds(result.tensors)
    yield from _render_top(result.tensors, top)
    yield "the same bits" if result.same_bits else "not the same bits"


def _render_kinds(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    rows = [("", "equal bits", "largest difference", "relative norm")]
    for kind in KINDS:
        some = [tensor for tensor in tensors if tensor.key.startswith(f"{kind}/")]
        if not some:
            continue
        equal = sum(tensor.same_bits for tensor in some)
        norm, base = (math.hypot(*(getattr(t, n) for t in some)) for n in ("norm", "norm_of_a"))
        largest = max(tensor.largest for tensor in some)
        rows.append(
            (kind, f"{equal} of {len(some)}", f"{largest:.3g}", f"{_ratio(norm, base):.3g}")
        )
    return align_columns(rows, right=(1, 2, 3))


def _render_top(tensors: Sequence[TensorDifference], top: int) -> Iterator[str]:
    differing = [tensor for tensor in tensors if not tensor.same_bits]
    differing.sort(key=lambda tensor: (tensor.relative, tensor.largest), reverse=True)
    if not differing[:top]:
        return iter(())
    rows = [(f"differ most ({len(differing)} do)", "largest difference", "relative norm")]
    rows += [(t.key, f"{t.largest:.3g}", f"{t.relative:.3g}") for t in differing[:top]]
    return align_columns(rows, right=(1, 2))


def _sum_of_squares(values: np.ndarray) -> float:
    """The sum over the finite values."""
    with np.errstate(invalid="ignore"):
        total = float(values @ values)
    return total if math.isfinite(total) else float(np.square(values[np.isfinite(values)]).sum())


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    missing = "not there"
    return [
        (key, a.get(key, missing), b.get(key, missing))
        for key in {**a, **b}
        if a.get(key, missing) != b.get(key, missing)
    ]


def _flat_config(state: TrainState) -> dict[str, Any]:
    """Every key with its value; a key that is newer than the checkpoint has its default."""
    try:
        values = load_saved_config(state.config).model_dump(mode="json")
    except ConfigError:
        values = state.config
    return dict(_flatten(values, ""))


def _flatten(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else show_value(value)


def _ratio(norm: float, base: float) -> float:
    if norm == 0:
        return 0.0
    return norm / base if base else math.inf
