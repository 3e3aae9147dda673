"""One interface to the masters, moments and gradients of DeepSpeed's three optimizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

from bigtrain.engine.deepspeed_version import is_known_version

INVALID_NORM = -1.0
"""DeepSpeed skips the update if the norm is negative: see its ``is_invalid_grad_norm``."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """The flat range of a local parameter whose optimizer state this rank keeps.

    All views are fp32 and one-dimensional, and alias DeepSpeed's own buffers.
    """

    start: int
    master: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor


@dataclass(frozen=True, slots=True)
class GradientFragment:
    """The flat range of a local parameter whose reduced gradient this rank keeps, in fp32."""

    start: int
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a fragment lies: in the flat buffer of its parameter group, and in its parameter."""

    group: int
    start: int
    start_in_parameter: int
    numel: int


class OptimizerState:
    """One rank's masters, moments and gradients; each of DeepSpeed's optimizers has a subclass."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._create_moments()

    def fragment_of(self, parameter: torch.nn.Parameter) -> Fragment | None:
        """The range of ``parameter`` whose state this rank keeps; None if it keeps none."""
        kept = self._range_of(parameter)
        if kept is None:
            return None
        flat = self._flat_masters()[kept.group]
        state = self._adam.state[flat]
        return Fragment(
            start=kept.start_in_parameter,
            master=flat.data.narrow(0, kept.start, kept.numel),
            first_moment=state["exp_avg"].narrow(0, kept.start, kept.numel),
            second_moment=state["exp_avg_sq"].narrow(0, kept.start, kept.numel),
        )

    def gradients(self) -> Iterator[tuple[torch.nn.Parameter, GradientFragment]]:
        """Yields this rank's reduced, unclipped gradients; valid from ``reduce`` to ``update``."""
        raise NotImplementedError

    def copy_masters_to_weights(self) -> None:
        """Copies the masters into the weights that the model computes with, on every rank."""
        self._optimizer.update_lp_params()

    def clear_gradients(self) -> None:
        """Clears the gradients after a step, if DeepSpeed does not."""

    def zero_missing_gradients(self) -> None:
        """Sets to zero the gradients that no backward pass of the step has written."""

    @property
    def steps(self) -> int:
        """Number of updates that Adam has made; its bias correction depends on this."""
        flats = self._flat_masters()
        return int(self._adam.state[flats[0]]["step"].item()) if flats else 0

    @steps.setter
    def steps(self, steps: int) -> None:
        for flat in self._flat_masters():
            self._adam.state[flat]["step"].fill_(steps)

    @contextmanager
    def override_norm(self, norm: float | None) -> Iterator[None]:
        """Makes DeepSpeed's step clip by ``norm`` instead of a norm that it computes.

        Args:
            norm: If None, the step applies no update and clears the gradients.
        """
        raise NotImplementedError
        yield

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return self._optimizer.optimizer  # type: ignore[no-any-return]

    def _flat_masters(self) -> list[torch.Tensor]:
        raise NotImplementedError

    def _range_of(self, parameter: Any) -> _Range | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        return _Range(
            group=mapping.param_group_index,
            start=mapping.hp_fragment_address.start,
            start_in_parameter=mapping.lp_fragment_address.start,
            numel=mapping.hp_fragment_address.numel,
        )

    def _create_moments(self) -> None:
        # Adam creates them at its first step, but a checkpoint is loaded before that.
        for flat in self._flat_masters():
            state = self._adam.state[flat]
            if "exp_avg" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
                state["exp_avg"] = torch.zeros_like(flat, requires_grad=False)
                state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)

    @staticmethod
    def _norm_tensor(norm: float | None, device: Any) -> torch.Tensor:
        return torch.tensor(INVALID_NORM if norm is None else norm, device=device)


class PartitionedState(OptimizerState):
    """DeepSpeed's stages 1 and 2, except stage 1 in bf16 without offloading."""

    def gradients(self) -> Iterator[tuple[torch.nn.Parameter, GradientFragment]]:
        """Yields this rank's reduced, unclipped gradients; valid from ``reduce`` to ``update``."""
        optimizer = self._optimizer
        for group, parameters in enumerate(optimizer.params_in_partition):
            if optimizer.cpu_offload:
                flat = optimizer.single_partition_of_fp32_groups[group].grad
                for parameter in parameters:
                    kept = self._range_of(parameter)
                    assert kept is not None
                    values = flat.narrow(0, kept.start, kept.numel)
                    yield parameter, GradientFragment(kept.start_in_parameter, values)
                continue
            values = optimizer.averaged_gradients[group]
            values = [v for v in values if not getattr(v, "_zero_padding", False)]
            for parameter, value in zip(parameters, values, strict=False):
                kept = self._range_of(parameter)
                assert kept is not None and kept.numel == value.numel()
                yield parameter, GradientFragment(kept.start_in_parameter, value.reshape(-1))

    @contextmanager
    def override_norm(self, norm: float | None) -> Iterator[None]:
        """Makes DeepSpeed's step clip by ``norm`` instead of a norm that it computes."""
        optimizer = self._optimizer

        def scaled_global_norm(norm_type: int = 2) -> torch.Tensor:
            # In bf16 DeepSpeed checks the norm only if this flag is set. If it were set before the
            # step, DeepSpeed would also search all gradients for overflows.
            optimizer.check_grad_overflow = True
            return self._norm_tensor(norm, optimizer.device)

        optimizer.scaled_global_norm = scaled_global_norm
        optimizer.check_grad_overflow = False
        try:
            yield
        finally:
            optimizer.check_grad_overflow = False
            del optimizer.scaled_global_norm

    def clear_gradients(self) -> None:
        """Clears the gradients after a step.

        With offloading DeepSpeed keeps a discarded step's gradients and adds the next ones to them.
        """
        for group in self._optimizer.averaged_gradients:
            self._optimizer.averaged_gradients[group] = None

    def _flat_masters(self) -> list[torch.Tensor]:
        return list(self._optimizer.single_partition_of_fp32_groups)


class FullGradientState(OptimizerState):
    """DeepSpeed's stage 1 in bf16 without offloading: each rank has fp32 buffers of all gradients.

    The first gradient of a step overwrites that of the previous step. DeepSpeed's own code fills
    the buffers with zeros and adds an fp32 copy of each gradient: twice the memory traffic.
    """

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        if is_known_version():
            optimizer._update_hp_grad = self._accumulate
            optimizer.clear_hp_grads = self._mark_unwritten

    def zero_missing_gradients(self) -> None:
        """Sets to zero the gradients that no backward pass of the step has written."""
        optimizer = self._optimizer
        for group, written in enumerate(optimizer.fp32_groups_has_gradients):
            for number, is_written in enumerate(written):
                if not is_written:
                    optimizer.fp32_groups_gradients[group][number].zero_()

    def _mark_unwritten(self) -> None:
        for written in self._optimizer.fp32_groups_has_gradients:
            written[:] = [False] * len(written)

    @torch.no_grad()
    def _accumulate(self, parameter: Any, group: int, number: int, clear_lp_grads: bool) -> None:
        if parameter.grad is None:
            return
        total = self._optimizer.fp32_groups_gradients[group][number]
        written = self._optimizer.fp32_groups_has_gradients[group]
        gradient = parameter.grad.view_as(total)
        if written[number]:
            total.add_(gradient)
        else:
            total.copy_(gradient)
        written[number] = True
        parameter._hp_grad = total
        assert not clear_lp_grads, "DeepSpeed frees the bf16 gradient itself"

    def gradients(self) -> Iterator[tuple[torch.nn.Parameter, GradientFragment]]:
        """Yields this rank's reduced, unclipped gradients; valid from ``reduce`` to ``update``."""
        flats = self._optimizer.fp32_groups_gradient_flat_partition
        for group in self._optimizer.bf16_groups:
            for parameter in group:
                kept = self._range_of(parameter)
                if kept is not None:
                    values = flats[kept.group].narrow(0, kept.start, kept.numel)
                    yield parameter, GradientFragment(kept.start_in_parameter, values)

    @contextmanager
    def override_norm(self, norm: float | None) -> Iterator[None]:
        """Makes DeepSpeed's step clip by ``norm`` instead of a norm that it computes."""
        original = bf16_optimizer.get_global_norm_of_tensors
        device = self._flat_masters()[0].device
        bf16_optimizer.get_global_norm_of_tensors = lambda **_: self._norm_tensor(norm, device)
        try:
            yield
        finally:
            bf16_optimizer.get_global_norm_of_tensors = original

    def _flat_masters(self) -> list[torch.Tensor]:
        return list(self._optimizer.fp32_groups_flat_partition)


class PartitionedWeightState(OptimizerState):
    """DeepSpeed's stage 3: each replica rank keeps a flat range of each parameter and its state."""

    def gradients(self) -> Iterator[tuple[torch.nn.Parameter, GradientFragment]]:
        """Yields this rank's reduced, unclipped gradients; valid from ``reduce`` to ``update``."""
        optimizer = self._optimizer
        for group in optimizer.fp16_groups:
            for parameter in group:
                kept = self._range_of(parameter)
                if kept is not None:
                    values, _ = optimizer._get_fp32_grad_state_partition(
                        parameter, release_swap_buffers=False
                    )
                    yield (
                        parameter,
                        GradientFragment(kept.start_in_parameter, values[: kept.numel].float()),
                    )

    def copy_masters_to_weights(self) -> None:
        """Copies the masters into the weights that the model computes with, on every rank."""
        optimizer = self._optimizer
        optimizer._partition_all_parameters()
        for number, _ in enumerate(optimizer.fp16_groups):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def clear_gradients(self) -> None:
        """Clears the gradients after a step.

        DeepSpeed overwrites them in the first backward pass of the next step. With several chunks
        that pass computes only one chunk's gradients, and the others would keep old values.
        """
        self._optimizer.grad_partitions_flat_buffer.zero_()

    @contextmanager
    def override_norm(self, norm: float | None) -> Iterator[None]:
        """Makes DeepSpeed's step clip by ``norm`` instead of a norm that it computes."""
        optimizer = self._optimizer
        optimizer._get_norm_groups = lambda: [self._norm_tensor(norm, optimizer.device)]
        try:
            yield
        finally:
            del optimizer._get_norm_groups

    def _flat_masters(self) -> list[torch.Tensor]:
        return list(self._optimizer.fp32_partitioned_groups_flat)

    def _range_of(self, parameter: Any) -> _Range | None:
        optimizer = self._optimizer
        group, start, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        first = numel * optimizer._get_param_partition_rank(parameter)
        values = min(numel, parameter.ds_numel - first)  # The last range ends with padding.
        return _Range(group, start, first, values) if values > 0 else None


def state_of(optimizer: Any) -> OptimizerState:
    """Wraps the optimizer that DeepSpeed has created, and creates Adam's moments as zeros."""
    match optimizer:
        case DeepSpeedZeroOptimizer_Stage3():
            return PartitionedWeightState(optimizer)
        case BF16_Optimizer():
            return FullGradientState(optimizer)
        case _:
            return PartitionedState(optimizer)
