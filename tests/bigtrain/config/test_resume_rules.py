"""Which keys may differ between a checkpoint's config and the config that resumes it."""

from typing import Any

import pytest

from bigtrain.config import ConfigError, RunConfig
from bigtrain.config.resume_rules import check_resume
from tests.bigtrain.config.small_run import ConfigFolder

Saved = dict[str, Any]


@pytest.fixture
def saved(folder: ConfigFolder) -> Saved:
    return folder.load().model_dump(mode="json")


def _refuse(saved: Saved, now: RunConfig, *accepted: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_resume(saved, now, accepted=accepted)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_same_config_resumes(folder: ConfigFolder, saved: Saved) -> None:
    check_resume(saved, folder.load())


def test_an_added_or_removed_section_is_one_change(folder: ConfigFolder, saved: Saved) -> None:
    ramp = "train.batch_ramp={start: 4, increment: 4, samples: 80}"
    message = _refuse(saved, folder.load(ramp))
    assert "resuming would change train.batch_ramp from null to {" in message
    assert "accept with --accept-change train.batch_ramp" in message
    check_resume(saved, folder.load(ramp), accepted=["train.batch_ramp"])
    ramped = folder.load(ramp).model_dump(mode="json")
    assert "train.batch_ramp from {" in _refuse(ramped, folder.load())


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("model.num_layers=8", "model.num_layers from 4 to 8"),
        ("model.dropout=0.1", "model.dropout from 0.0 to 0.1"),
        ("model.tie_embeddings=false", "model.tie_embeddings from true to false"),
        ("model.ffn_hidden_size=96", "model.ffn_hidden_size from null to 96"),
        ("seed=2", "seed from 1 to 2"),
        ("data.sequence_length=16", "data.sequence_length from 32 to 16"),
        ("model.norm=rmsnorm", "model.norm from 'layernorm' to 'rmsnorm'"),
    ],
)
def test_a_changed_identity_is_refused_with_the_difference(
    folder: ConfigFolder, saved: Saved, override: str, change: str
) -> None:
    message = _refuse(saved, folder.load(override))
    assert f"run small: the checkpoint is of another run: {change}; " in message
    assert "give the new run another name, or set the values back" in message


@pytest.mark.parametrize(
    "override",
    [
        "parallel={tensor: 2, pipeline: 2, zero: 1}",
        "parallel.device=cpu",
        "train.micro_batch_size=8",
        "train.log_every=1",
        "track={wandb: 'off', project: other}",
        "checkpoint.every=7",
        "train={recompute: full, compile: true}",
        "parallel={tensor: 2, sequence: true, zero: 3}",
        "guard={sigmas: 0.0, stop_after: 3}",
        "validation={every: 5, samples: 3}",
        "data={train: moved/here, validation: there, verify: 'off'}",
        "runs_dir=elsewhere",
        "name=renamed",
    ],
)
def test_keys_without_effect_on_the_loss_may_change(
    folder: ConfigFolder, saved: Saved, override: str
) -> None:
    check_resume(saved, folder.load(override))


@pytest.mark.parametrize(
    ("override", "change", "key"),
    [
        ("optim.learning_rate=2e-3", "optim.learning_rate from 0.001 to 0.002", None),
        ("optim.schedule=linear", "optim.schedule from 'cosine' to 'linear'", None),
        ("optim.decay_steps=10", "optim.decay_steps from 20 to 10", None),
        ("train.global_batch_size=16", "train.global_batch_size from 8 to 16", None),
        ("train.precision=bf16", "train.precision from 'fp32' to 'bf16'", None),
        ("train.steps=40", "train.steps from 20 to 40", None),
        ("optim.learning_rate=2e-3", "optim.learning_rate", "optim"),
        ("train.precision=bf16", "train.precision", "train"),
    ],
)
def test_changed_keys_with_effect_on_the_loss_must_be_accepted_by_name(
    folder: ConfigFolder, saved: Saved, override: str, change: str, key: str | None
) -> None:
    now = folder.load(override)
    message = _refuse(saved, now)
    assert f"resuming would change {change}" in message
    own_key = change.split(" ")[0]
    assert f"accept with --accept-change {own_key}" in message
    check_resume(saved, now, accepted=[key or own_key])


def test_accepting_one_key_does_not_accept_another(folder: ConfigFolder, saved: Saved) -> None:
    now = folder.load("optim.learning_rate=2e-3", "optim.beta1=0.8")
    message = _refuse(saved, now, "optim.beta1")
    assert "optim.learning_rate" in message
    assert "optim.beta1" not in message
    check_resume(saved, now, accepted=["optim.beta1", "optim.learning_rate"])


def test_a_changed_identity_cannot_be_accepted(folder: ConfigFolder, saved: Saved) -> None:
    now = folder.load("optim.learning_rate=2e-3", "seed=2")
    assert "seed from 1 to 2" in _refuse(saved, now, "optim")


def test_more_steps_are_allowed_if_no_decay_depends_on_them(folder: ConfigFolder) -> None:
    for overrides in (["optim.schedule=constant"], ["optim.decay_steps=20"]):
        saved = folder.load(*overrides).model_dump(mode="json")
        check_resume(saved, folder.load(*overrides, "train.steps=40"))


def test_a_run_may_be_lengthened_by_fixing_the_old_decay(
    folder: ConfigFolder, saved: Saved
) -> None:
    assert "optim.decay_steps=20 keeps the decay" in _refuse(saved, folder.load("train.steps=40"))
    check_resume(saved, folder.load("train.steps=40", "optim.decay_steps=20"))


def test_a_new_schedule_is_one_change_not_two(folder: ConfigFolder, saved: Saved) -> None:
    now = folder.load("optim.schedule=constant")
    assert "train.steps" not in _refuse(saved, now)
    check_resume(saved, now, accepted=["optim.schedule"])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("optim.learning_rat", "there is no such key; did you mean optim.learning_rate?"),
        ("learning_rate", "did you mean optim.learning_rate?"),
        ("", "there is no such key"),
        ("opt", "did you mean optim?"),
        ("model.num_layers", "it identifies the run"),
        ("model", "it identifies the run"),
        ("seed", "it identifies the run"),
        ("parallel.tensor", "it may change freely, leave the flag out"),
        ("track", "it may change freely, leave the flag out"),
    ],
)
def test_a_key_that_needs_no_acceptance_is_refused(
    folder: ConfigFolder, saved: Saved, key: str, reason: str
) -> None:
    message = _refuse(saved, folder.load(), key)
    assert message.startswith(f"--accept-change {key}: ")
    assert reason in message


def test_an_older_checkpoint_without_the_newest_keys_resumes(
    folder: ConfigFolder, saved: Saved
) -> None:
    del saved["track"]
    del saved["parallel"]["zero"]
    del saved["optim"]["epsilon"]
    check_resume(saved, folder.load())
    assert "optim.epsilon from 1e-08 to 1e-06" in _refuse(saved, folder.load("optim.epsilon=1e-6"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved["model"].update(rotary=True),
        lambda saved: saved.pop("model"),
        lambda saved: saved["train"].update(steps="many"),
        lambda saved: saved.update(optim=None),
        lambda saved: saved["parallel"].update(tensor=3),
    ],
)
def test_a_config_that_this_version_cannot_read_is_refused(
    folder: ConfigFolder, saved: Saved, damage: Any
) -> None:
    damage(saved)
    assert "the checkpoint's config does not fit this version" in _refuse(saved, folder.load())
