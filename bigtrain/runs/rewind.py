"""Takes a run back to a checkpoint, and makes it skip samples from there on. No torch.

The batches at a loss spike are rarely bad by themselves: training from an earlier checkpoint with
other batches gets past that step without a spike (PaLM, arXiv 2204.02311, section 5.1).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigtrain.checkpoint.commit import open_state
from bigtrain.checkpoint.dangling_links import check_links
from bigtrain.checkpoint.owner import check_may_change
from bigtrain.checkpoint.retention import set_aside
from bigtrain.checkpoint.schema import CheckpointError, TrainState
from bigtrain.checkpoint.step_folders import committed_folders, step_of
from bigtrain.config.data import SkipConfig, merge_skips
from bigtrain.config.resume_rules import load_saved_config
from bigtrain.config.saved import load_run_of
from bigtrain.data.corpora import samples_per_unit
from bigtrain.data.sample_order import number_samples
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import run_lock
from bigtrain.runs.samples_of_step import find_step
from bigtrain.runs.skip_file import SKIP_FILE, read_skips, render_skips
from data_tools.files import write_file

_RANGE = re.compile(r"^(\d{1,18}):(\d{1,18})$")


class RewindError(ValueError):
    """The run cannot be rewound as asked; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class RewindResult:
    """The result of a rewind."""

    run: Path
    step: int
    """The step of the checkpoint that the run resumes from; 0 is its beginning."""
    set_aside: tuple[str, ...]
    """The new names of the newer checkpoints."""
    skipped: SkipConfig | None
    """The samples that the user asked to skip."""


def rewind_run(
    run_dir: Path,
    *,
    to: int,
    skip_steps: str | None = None,
    skip_samples: str | None = None,
    last_may_lie_ahead: bool = False,
) -> RewindResult:
    """Sets checkpoints newer than a step aside, and records which samples the run skips.

    Nothing is deleted. After a kill, calling it again completes the rewind.

    Args:
        run_dir: A run folder.
        to: The step of a checkpoint; 0 means the beginning.
        skip_steps: ``A:B``: skip the batches of steps A to B, both included.
        skip_samples: ``FIRST:COUNT``: skip samples, numbered as `bigtrain data which` shows them.
        last_may_lie_ahead: Whether step B may be one that the run has not taken. Its samples are
            then those that the newest attempt would have read.

    Raises:
        FolderError: The run folder is a dangling link.
        RewindError: There is no such run or checkpoint, or the range is invalid.
        ConfigError: The checkpoints belong to another run, such as the original of this copy.
        RunBusyError: Another process trains the run.
    """
    check_links(run_dir)
    folder = RunFolder(run_dir)
    if (problem := folder.explain_no_run()) is not None:
        raise RewindError(problem)
    check_may_change(run_dir)
    with run_lock(run_dir):
        state = _find_checkpoint(folder, to)
        skip = _requested_range(folder, skip_steps, skip_samples, last_may_lie_ahead)
        if skip is not None:
            _check_whole_units(folder, skip)
            if state is not None:
                _check_not_trained_on(folder, skip, state)
            merged = merge_skips([*read_skips(run_dir), skip])
            write_file(run_dir / SKIP_FILE, render_skips(merged).encode())
        rewound = RewindResult(run_dir, to, tuple(_set_aside(folder, newer_than=to)), skip)
        folder.record_rewind(
            to=to,
            set_aside=rewound.set_aside,
            skipped=None if skip is None else skip.model_dump(mode="json"),
        )
        _write_status(folder, to)
        return rewound


def _write_status(folder: RunFolder, step: int) -> None:
    found = [each for each in committed_folders(folder.checkpoints) if step_of(each) == step]
    folder.write_status(
        state="rewound",
        step=step,
        loss=None,
        tokens_per_second=None,
        last_checkpoint=str(found[0]) if found else None,
        reason=f"taken back to step {step}",
    )


def render_rewind(rewound: RewindResult) -> Sequence[str]:
    """Renders the lines for the terminal: what was done, and the next command."""
    to = f"step {rewound.step}" if rewound.step else "its beginning"
    lines = [f"{rewound.run}: resumes from {to}"]
    if rewound.set_aside:
        lines.append(f"  set aside, not deleted: {', '.join(rewound.set_aside)}")
    if rewound.skipped is not None:
        first, count = rewound.skipped.first_sample, rewound.skipped.samples
        lines.append(f"  {count} samples from {first} are skipped ({rewound.run / SKIP_FILE})")
    return [*lines, f"next: {shlex.join(RunFolder(rewound.run).resume_command())}"]


def _find_checkpoint(folder: RunFolder, step: int) -> TrainState | None:
    """Returns the state of the checkpoint to resume from; None for the beginning."""
    if step == 0:
        return None
    by_step = {step_of(each): each for each in reversed(committed_folders(folder.checkpoints))}
    if step not in by_step:
        steps = ", ".join(map(str, by_step)) or "none"
        raise RewindError(
            f"{folder.path}: no checkpoint of step {step}; there are: {steps} (0 is the beginning)"
        )
    try:
        return open_state(by_step[step])
    except CheckpointError as error:
        raise RewindError(f"cannot rewind to step {step}: {error}") from None


def _requested_range(
    folder: RunFolder, steps: str | None, samples: str | None, last_may_lie_ahead: bool
) -> SkipConfig | None:
    if steps is not None and samples is not None:
        raise RewindError("give either --skip-steps or --skip-samples, not both")
    if samples is not None:
        first, count = _two_numbers("--skip-samples", samples, "FIRST:COUNT, such as 4096:512")
        if not count:
            raise RewindError(f"--skip-samples {samples}: the count is 0; leave it out")
        return SkipConfig(first_sample=first, samples=count)
    if steps is None:
        return None
    begin, end = _two_numbers("--skip-steps", steps, "A:B, such as 120:124")
    if not 0 < begin <= end:
        raise RewindError(f"--skip-steps {steps}: give the first step, from 1 on, and the last")
    found = [find_step(folder, step) for step in (begin, end)]
    for step, batch in zip((begin, end), found, strict=True):
        if not batch.was_taken and not (step == end and last_may_lie_ahead):
            raise RewindError(
                f"--skip-steps {steps}: the run has not taken step {step}, so its samples "
                "are not known; give steps of its metrics.jsonl, or --skip-samples"
            )
    first, last = found[0].numbers[0], found[1].numbers[1]
    return SkipConfig(first_sample=first, samples=last + 1 - first)


def _two_numbers(option: str, text: str, form: str) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None:
        raise RewindError(f"{option} {text}: give {form}")
    return int(match[1]), int(match[2])


def _check_whole_units(folder: RunFolder, skip: SkipConfig) -> None:
    unit = samples_per_unit(load_run_of(folder.path))
    if skip.first_sample % unit or skip.samples % unit:
        raise RewindError(
            f"--skip-samples {skip.first_sample}:{skip.samples}: pairs are drawn a whole batch at "
            f"a time; give multiples of train.global_batch_size={unit}"
        )


def _check_not_trained_on(folder: RunFolder, skip: SkipConfig, state: TrainState) -> None:
    """Checks that the checkpoint was not trained on any sample of the range."""
    config = load_saved_config(state.config)
    last = int(number_samples(np.array([state.samples - 1]), config.data.skip)[0])
    if state.samples and skip.first_sample <= last:
        raise RewindError(
            f"{folder.path}: the checkpoint of step {state.step} was trained on samples 0 to "
            f"{last}, and those to skip begin at {skip.first_sample}; go back further with "
            "--to, or skip later ones"
        )


def _set_aside(folder: RunFolder, *, newer_than: int) -> list[str]:
    checkpoints = folder.checkpoints
    names = [
        set_aside(checkpoint, f"rewound-{folder.newest_attempt}")
        for checkpoint in committed_folders(checkpoints)  # Newest first.
        if step_of(checkpoint) > newer_than
    ]
    if names:
        checkpoints.settle()
    return names
