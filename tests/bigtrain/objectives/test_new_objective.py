"""A new objective is one class and one line of registration, without changes to the trainer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from bigtrain.config import RunConfig
from bigtrain.config.model_kinds import FINE_TUNING, MODEL_KINDS, ObjectiveTraits
from bigtrain.config.objective import ObjectiveConfig
from tests.ranks import run_ranks
from tests.runs import make_corpus, tiny_config, train_rank


class EveryOtherToken:
    """Next-token prediction over the targets at even positions only, which reports their number."""

    def model_inputs(self, microbatch: Any, device: Any) -> tuple[Any, ...]:
        """The model inputs of next-token prediction."""
        from bigtrain.objectives.next_token import NextToken

        return NextToken().model_inputs(microbatch, device)

    def loss_function(
        self, microbatch: Any, config: RunConfig, *, device: Any, scales: Any, measure: bool
    ) -> Any:
        """Cross entropy over half of the targets."""
        from bigtrain.models.loss import token_losses

        def loss(logits: Any) -> Any:
            losses, _ = token_losses(
                logits, microbatch.targets.to(device), vocab_size=config.model.vocab_size
            )
            total = losses[:, ::2].sum()
            counted = microbatch.weights[:, ::2].sum().to(device)
            return total * scales.target, {"my_loss": total.detach().clone(), "my_count": counted}

        return loss

    def report_sizes(self, model: Any, *, measure: bool) -> dict[str, int]:
        """Two reported sums: the loss and the number of targets."""
        return {"my_loss": 1, "my_count": 1}

    def figures(self, sums: Any) -> dict[str, float]:
        """The loss, and a figure of this objective."""
        return {
            "loss": sums["my_loss"][0] / sums["my_count"][0],
            "counted_targets": sums["my_count"][0],
        }

    def num_tokens(self, sums: Any) -> int:
        """The number of targets that count."""
        return int(sums["my_count"][0])


TRAITS = ObjectiveTraits(
    name="every_other_token", task="predicts half", packings=("concat",), loss_unit="nats/token"
)


def train_with_new_objective(config: RunConfig) -> None:
    """Registers the objective for GPT models and trains; for ``run_ranks``."""
    import bigtrain.config.model_kinds as kinds
    from bigtrain.objectives.table import OBJECTIVES

    OBJECTIVES["every_other_token"] = EveryOtherToken()
    gpt = replace(MODEL_KINDS["gpt"], objective=TRAITS)
    kinds.MODEL_KINDS["gpt"] = gpt  # type: ignore[index]
    train_rank(config)


def test_a_new_objective_trains_without_changes_to_the_trainer(tmp_path: Path) -> None:
    short: dict[str, Any] = {"train": {"steps": 2}, "optim": {"warmup_steps": 0}}
    config = tiny_config(make_corpus(tmp_path), tmp_path / "runs", **short)
    run_ranks(train_with_new_objective, 1, config)
    lines = map(json.loads, (config.run_dir / "metrics.jsonl").read_text().splitlines())
    events = [line for line in lines if line.get("split") in ("train", "validation")]
    counted = config.train.global_batch_size * config.data.sequence_length // 2
    steps = [event for event in events if event["split"] == "train"]
    assert [event["counted_targets"] for event in steps] == [counted, counted]
    assert [event["tokens"] for event in steps] == [counted, 2 * counted]
    assert [event["loss"] for event in steps] == pytest.approx([6.2, 6.2], abs=0.3)  # log 500
    assert "counted_targets" in events[-1] and events[-1]["split"] == "validation"


def test_every_kind_of_model_and_of_fine_tuning_has_a_registered_objective() -> None:
    from bigtrain.objectives.table import OBJECTIVES

    own = {traits.objective.name for traits in MODEL_KINDS.values()}
    chosen = {traits.name for traits in FINE_TUNING.values()}
    assert own | chosen == set(OBJECTIVES)
    assert set(FINE_TUNING) | {"pretraining"} == set(
        get_args(ObjectiveConfig.model_fields["kind"].annotation)
    )
