"""Every impossible combination of model, layout and schedule is refused with its remedy."""

import pytest

from bigtrain.config import ConfigError
from tests.bigtrain.config.small_run import ConfigFolder

REFUSED = {
    "sequence alone": (
        ["parallel.sequence=true"],
        "parallel.sequence=true splits the sequence over tensor ranks, but parallel.tensor=1; "
        "set parallel.tensor to 2 or more, or leave parallel.sequence out",
    ),
    "odd sequence": (
        ["parallel.sequence=true", "parallel.tensor=2", "data.sequence_length=31"],
        "parallel.tensor=2 does not divide data.sequence_length=31; try 32",
    ),
    "pairs among three": (
        [
            *("model.kind=bert", "data.packing=pairs", "parallel.sequence=true"),
            *("parallel.tensor=3", "model.num_heads=3", "data.sequence_length=30"),
        ],
        "sentence pairs are padded to multiples of 8, which parallel.tensor=3 does not divide",
    ),
    "heads of keys": (
        ["parallel.tensor=4", "model.num_kv_heads=2"],
        "parallel.tensor=4 does not divide model.num_kv_heads=2; try 1, 2 or change",
    ),
    "heads in groups": (
        ["model.num_kv_heads=3"],
        "model.num_kv_heads=3 does not divide model.num_heads=4; try 1, 2 or 4",
    ),
    "a typo in a section that may be left out": (
        ["model.rope_scaling.factr=8.0"],
        "model.rope_scaling.factr=8.0: there is no such key; did you mean "
        "model.rope_scaling.factor?",
    ),
    "odd heads with rope": (
        ["model.positions=rope", "model.hidden_size=36"],
        "model.positions=rope rotates pairs of numbers, and hidden_size/num_heads=9 is odd",
    ),
    "theta without rope": (
        ["model.rope_theta=5e5"],
        "model.rope_theta has no effect with model.positions=learned; leave it out or set",
    ),
    "scaling without rope": (
        ["model.rope_scaling={factor: 8.0}"],
        "model.rope_scaling has no effect with model.positions=learned",
    ),
    "frequencies out of order": (
        ["model.positions=rope", "model.rope_scaling={factor: 8.0, low_frequency_factor: 4.0}"],
        "low_frequency_factor=4 is not below high_frequency_factor=4; Llama 3 has 1 and 4",
    ),
    "bert with rope": (
        ["model.kind=bert", "data.packing=pairs", "model.positions=rope"],
        "model.positions=rope cannot be set with model.kind=bert; BERT has learned positions, "
        "LayerNorm, GELU",
    ),
    "gpt with norms after blocks": (
        ["model.norm_position=post"],
        "model.norm_position=post cannot be set with model.kind=gpt; GPT has a norm before each",
    ),
    "norms after blocks in transformer engine": (
        [
            *("model.kind=bert", "data.packing=pairs", "model.norm_position=post"),
            "train.kernels=transformer_engine",
        ],
        "train.kernels=transformer_engine computes norms before blocks only, but "
        "model.norm_position=post; set train.kernels=torch",
    ),
    "bert on windows": (
        ["model.kind=bert"],
        "data.packing=concat makes no samples for model.kind=bert, which learns from sentence "
        "pairs (make them with `bigtrain data samples`); try data.packing=pairs, or model.kind=gpt",
    ),
    "gpt on pairs": (
        ["data.packing=pairs"],
        "data.packing=pairs makes no samples for model.kind=gpt, which predicts the next token; "
        "try data.packing=concat or bestfit or pad, or model.kind=bert",
    ),
    "bert with z-loss": (
        ["model.kind=bert", "data.packing=pairs", "optim.z_loss=1e-4"],
        "optim.z_loss is for model.kind=gpt; leave it out",
    ),
    "virtual stages without stages": (
        ["parallel.virtual_pipeline=2"],
        "parallel.virtual_pipeline=2 is for a pipeline, but parallel.pipeline=1; raise",
    ),
    "a last stage without stages": (
        ["parallel.last_stage_layers=1"],
        "parallel.last_stage_layers=1 is for a pipeline, but parallel.pipeline=1",
    ),
    "too many chunks": (
        ["parallel.pipeline=2", "parallel.virtual_pipeline=4"],
        "parallel.pipeline=2 × parallel.virtual_pipeline=4 does not divide model.num_layers=4",
    ),
    "uneven middle": (
        ["parallel.pipeline=3", "parallel.first_stage_layers=1", "model.num_layers=6"],
        "parallel.first_stage_layers=1 leaves 5 layers, which the 2 other stages of "
        "parallel.pipeline=3 do not divide; leave them a multiple of 2",
    ),
    "nothing for the middle": (
        ["parallel.pipeline=3", "parallel.first_stage_layers=4"],
        "parallel.first_stage_layers=4 leaves 0 of model.num_layers=4 for the 2 other stages",
    ),
    "layers left over": (
        [
            *("parallel.pipeline=2", "parallel.first_stage_layers=1"),
            "parallel.last_stage_layers=2",
        ],
        "parallel.first_stage_layers=1 and parallel.last_stage_layers=2 add up to 3; "
        "the two stages must hold all layers (model.num_layers=4)",
    ),
    "a first stage that chunks do not divide": (
        [
            *("parallel.pipeline=2", "parallel.virtual_pipeline=2"),
            "parallel.first_stage_layers=1",
        ],
        "parallel.virtual_pipeline=2 does not divide parallel.first_stage_layers=1; try 2",
    ),
    "offload without a partition": (
        ["parallel.offload_optimizer=true"],
        "parallel.offload_optimizer=true moves ZeRO's partition of the optimizer state to host "
        "memory, but parallel.zero=0 partitions nothing; set parallel.zero to 1, 2 or 3",
    ),
    "a fourth ZeRO stage": (["parallel.zero=4"], "parallel.zero=4"),
    "an anneal without wsd": (
        ["optim.anneal_steps=3"],
        "optim.anneal_steps=3 is for optim.schedule=wsd, not cosine; leave it out",
    ),
    "an anneal longer than the run": (
        ["optim.schedule=wsd", "optim.warmup_steps=10", "optim.anneal_steps=11"],
        "optim.anneal_steps=11 does not fit between optim.warmup_steps=10 and the end of the decay",
    ),
    "a ramp of pairs": (
        [
            *("model.kind=bert", "data.packing=pairs"),
            "train.batch_ramp={start: 4, increment: 4, samples: 100}",
        ],
        "train.batch_ramp changes the size of batches, and with data.packing=pairs a whole batch "
        "is drawn together; leave it out",
    ),
    "a ramp that misses": (
        ["train.batch_ramp={start: 2, increment: 4, samples: 100}"],
        "increments of 4 do not lead from 2 to exactly train.global_batch_size=8; try increment=6",
    ),
    "a ramp from above": (
        ["train.batch_ramp={start: 8, increment: 4, samples: 100}"],
        "train.batch_ramp.start=8 is not below train.global_batch_size=8; lower it",
    ),
    "a ramp of half microbatches": (
        ["train.batch_ramp={start: 5, increment: 3, samples: 100}"],
        "train.micro_batch_size=2 does not divide train.batch_ramp's start=5 and increment=3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_impossible_combination_is_refused_with_its_remedy(
    folder: ConfigFolder, case: str
) -> None:
    overrides, message = REFUSED[case]
    assert message in folder.refuse(*overrides)


ACCEPTED = {
    "sequence": ["parallel.sequence=true", "parallel.tensor=2"],
    "uneven ends": [
        *("parallel.pipeline=3", "parallel.first_stage_layers=1"),
        *("parallel.last_stage_layers=1", "model.num_layers=6"),
    ],
    "uneven two": ["parallel.pipeline=2", "parallel.first_stage_layers=1"],
    "chunks": ["parallel.pipeline=2", "parallel.virtual_pipeline=2"],
    "llama": [
        *("model.positions=rope", "model.norm=rmsnorm", "model.activation=swiglu"),
        *("model.biases=false", "model.num_kv_heads=2", "model.rope_scaling={factor: 8.0}"),
        *("model.qk_norm=true", "parallel.tensor=2"),
    ],
    "bert": ["model.kind=bert", "data.packing=pairs", "parallel.tensor=2"],
    "wsd": ["optim.schedule=wsd", "optim.warmup_steps=10", "optim.anneal_steps=10"],
    "a schedule without an end": ["optim.schedule=inverse_sqrt", "optim.warmup_steps=20"],
    "zero 3": ["parallel.zero=3", "parallel.offload_optimizer=true"],
    "ramp": ["train.batch_ramp={start: 2, increment: 2, samples: 100}"],
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_possible_combination_is_accepted(folder: ConfigFolder, case: str) -> None:
    folder.load(*ACCEPTED[case])


def test_each_size_of_the_ramp_gets_the_same_number_of_samples(folder: ConfigFolder) -> None:
    config = folder.load("train.batch_ramp={start: 2, increment: 2, samples: 99}")
    assert [config.batch_size(n) for n in (0, 32, 33, 65, 66, 98)] == [2, 2, 4, 4, 6, 6]
    assert [config.batch_size(n) for n in (99, 10**12)] == [8, 8]


def test_each_size_of_the_ramp_must_be_divisible_by_the_data_ranks(folder: ConfigFolder) -> None:
    config = folder.load("train.batch_ramp={start: 2, increment: 2, samples: 99}")
    assert config.data_parallel_size(1) == 1
    refused = r"train\.batch_ramp\.start=2 is not a multiple of .*try 4"
    with pytest.raises(ConfigError, match=refused):
        config.data_parallel_size(2)


def test_an_interleaved_pipeline_needs_a_multiple_of_its_stages_as_microbatches(
    folder: ConfigFolder,
) -> None:
    config = folder.load("parallel.pipeline=2", "parallel.virtual_pipeline=2")
    assert config.data_parallel_size(2) == 1
    with pytest.raises(ConfigError, match=r"× 4 data ranks × 2 stages .*try 16"):
        config.data_parallel_size(8)


def test_the_default_feed_forward_size_of_swiglu_is_llamas(folder: ConfigFolder) -> None:
    swiglu = folder.load("model.activation=swiglu", "model.hidden_size=4096").model
    assert swiglu.feed_forward_size == 11008  # Llama 7B, arXiv 2302.13971.
