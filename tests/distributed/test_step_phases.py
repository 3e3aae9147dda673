"""The engine refuses phases in any order but backward, reduce, update or discard."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.distributed.steps import engine_of, forward_step_of, microbatches_of, steps_config
from tests.ranks import run_ranks


def call_phases() -> None:
    """Calls the phases in every wrong order and in the two right ones; for ``run_ranks``."""
    config = steps_config()
    with engine_of(config) as (engine, layout, coordinates):
        batch = forward_step_of(config), microbatches_of(config, 0, layout, coordinates)

        def refuse(*calls: Callable[..., Any]) -> None:
            for call in calls:
                with pytest.raises(AssertionError, match="next"):
                    call()

        def backward() -> None:
            engine.backward(*batch)

        def update() -> None:
            engine.update(1e-2)

        refuse(engine.reduce, update, engine.discard, engine.gradient_boxes)
        for end, steps in ((engine.discard, 0), (update, 1)):
            backward()
            refuse(backward, update, engine.discard, engine.gradient_boxes)
            refuse(lambda: engine.evaluate(*batch))
            engine.reduce()
            refuse(backward, engine.reduce, lambda: engine.evaluate(*batch))
            assert engine.gradient_boxes()
            end()
            assert engine.optimizer_steps == steps
            refuse(engine.reduce, update, engine.discard, engine.gradient_boxes)
        assert len(engine.evaluate(*batch)) == len(batch[1])


def test_phases_are_refused_in_any_other_order() -> None:
    run_ranks(call_phases, 1)
