"""How far a rewind goes back, and which steps it skips."""

import pytest

from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.runs.automatic_rewind import plan_rewind

EVERY_100 = range(100, 1001, 100)


@pytest.mark.parametrize(
    ("saved", "spike", "planned"),
    [
        # The checkpoint is at least 100 steps older; 100 steps before and 100 from 950 on.
        (EVERY_100, (950, 959), RewindPlan(850, 1049, 800)),
        (EVERY_100, (901, 910), RewindPlan(801, 1000, 800)),
        (EVERY_100, (900, 909), RewindPlan(800, 999, 700)),
        # A spike longer than 100 steps is skipped completely.
        (EVERY_100, (950, 1100), RewindPlan(850, 1100, 800)),
        # Older checkpoints were deleted: nothing that the oldest was trained on can be skipped.
        ((900, 950), (960, 969), RewindPlan(901, 1059, 900)),
        # A checkpoint that was saved during the spike is of no use.
        ((800, 960), (955, 964), RewindPlan(855, 1054, 800)),
        # With keep_last: 1 it may be the only one; its weights are those before the spike.
        ((960,), (955, 964), RewindPlan(961, 1054, 960)),
        ((957, 962), (955, 964), RewindPlan(958, 1054, 957)),
        # Without a checkpoint the run starts from its beginning.
        ((), (30, 39), RewindPlan(1, 129, 0)),
        ((200,), (30, 39), RewindPlan(1, 129, 0)),
        # The beginning counts only if there is no checkpoint.
        ((20, 40), (60, 69), RewindPlan(21, 159, 20)),
    ],
)
def test_a_rewind_goes_back_100_steps_and_skips_200_if_the_checkpoints_allow_it(
    saved: tuple[int, ...], spike: tuple[int, int], planned: RewindPlan
) -> None:
    first, last = spike
    assert plan_rewind([*saved], first=first, last=last, steps_around=100, began_at=0) == planned


def test_a_run_whose_checkpoints_are_gone_does_not_start_from_its_beginning() -> None:
    plan = plan_rewind([], first=130, last=139, steps_around=100, began_at=100, saved_step=120)
    assert plan.checkpoint_step == 120  # Where there is none, so `rewind_run` refuses.


def test_a_run_that_began_from_another_run_skips_none_of_that_run_s_steps() -> None:
    plan = plan_rewind([], first=1030, last=1039, steps_around=100, began_at=1000)
    assert plan == RewindPlan(1001, 1129, 0)
