"""When a run counts as hung."""

from launcher.supervisor.hangs import Hang, HangWatch

HANG, START = 120, 1800


def _watch(*, ranks: int = 2) -> HangWatch:
    watch = HangWatch(HANG, START)
    for rank in range(ranks):
        watch.observe(rank, "start", 0, None, 0)
    return watch


def _training(steps: int = 10, *, seconds: float = 1.0, ranks: int = 2) -> tuple[HangWatch, float]:
    """Ranks that resumed at step 100 and took steps; and the time of the newest step."""
    watch, now = _watch(ranks=ranks), 60.0
    for rank in range(ranks):
        watch.observe(rank, "train", 100, None, now)
    for step in range(101, 101 + steps):
        now += seconds
        for rank in range(ranks):
            watch.observe(rank, "train", step, seconds, now)
    return watch, now


def test_a_step_may_take_as_long_as_the_limit() -> None:
    watch, now = _training()
    assert watch.hung(now + HANG) is None
    hang = watch.hung(now + HANG + 1)
    assert hang is not None
    assert (hang.seconds, hang.limit, hang.step) == (HANG + 1, HANG, 110)


def test_a_step_may_take_ten_times_the_median_step() -> None:
    watch, now = _training(seconds=30)
    assert watch.hung(now + 300) is None
    assert watch.hung(now + 301) is not None


def test_a_single_slow_step_does_not_change_the_limit() -> None:
    watch, now = _training()
    for rank in (0, 1):
        watch.observe(rank, "train", 111, 100.0, now + 100)
    assert watch.hung(now + 100 + HANG + 1) is not None


def test_the_start_and_the_first_steps_may_take_the_start_limit() -> None:
    watch = _watch()
    assert watch.hung(START) is None
    assert watch.hung(START + 1) is not None
    for steps in (0, 1, 2):
        watch, now = _training(steps)
        assert watch.hung(now + START) is None
        assert watch.hung(now + START + 1) is not None
    watch, now = _training(3)
    assert watch.hung(now + HANG + 1) is not None


def test_slow_first_steps_do_not_count_in_the_median() -> None:
    watch, now = _training(3, seconds=600)
    for step in (104, 105):
        now += 1
        watch.observe(0, "train", step, 1.0, now)
    assert watch.hung(now + HANG + 1) is not None


def test_a_rank_that_saves_or_validates_gets_the_start_limit() -> None:
    for phase in ("save", "validate", "end"):
        watch, now = _training()
        watch.observe(1, phase, 110, None, now)
        assert watch.hung(now + HANG + 1) is None
        assert watch.hung(now + START + 1) is not None
        watch.observe(1, "train", 110, None, now)
        assert watch.hung(now + HANG + 1) is not None


def test_every_validation_batch_is_progress() -> None:
    watch, now = _training()
    for _ in range(5):
        now += START - 1
        watch.observe(0, "validate", 110, None, now)
        assert watch.hung(now) is None


def test_a_step_of_any_rank_is_progress() -> None:
    watch, now = _training()
    watch.observe(0, "train", 111, 100.0, now + 100)
    assert watch.hung(now + HANG + 1) is None


def test_a_hang_tells_phase_step_and_silence_of_every_rank() -> None:
    watch, now = _training(ranks=3)
    watch.observe(2, "train", 111, 1.0, now + 10)
    hang = watch.hung(now + 1000)
    assert isinstance(hang, Hang)
    told = [(rank.rank, rank.phase, rank.step, rank.seconds) for rank in hang.ranks]
    assert told == [
        (0, "train", 110, 1000), (1, "train", 110, 1000), (2, "train", 111, 990)
    ]  # fmt: skip


def test_a_rank_that_ended_is_left_out() -> None:
    watch, now = _training()
    watch.observe(1, "end", 110, None, now)
    watch.forget(1)
    hang = watch.hung(now + HANG + 1)
    assert hang is not None
    assert [rank.rank for rank in hang.ranks] == [0]
    watch.forget(0)
    assert watch.hung(now + 10_000) is None


def test_a_watch_without_ranks_never_hangs() -> None:
    assert HangWatch(HANG, START).hung(10_000) is None
