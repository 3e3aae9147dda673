"""The trainers of the step benchmark: each trains the same GPT-2 in its own process, in rounds.

``python -m tests.benchmarks.step_contenders NAME PRECISION FOLDER`` warms up, prints ``ready``, and
then, for each number of steps read from stdin, takes them and prints the seconds as JSON.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

LAYERS, WIDTH, HEADS, LENGTH, ROWS, VOCAB_SIZE = 6, 384, 6, 256, 8, 8192
LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP = 3e-4, 0.1, (0.9, 0.95), 1.0
WARM_UP = 5


class RoundGate:
    """Called after each step; between rounds it waits for the next round."""

    def __init__(self) -> None:
        self._left = WARM_UP
        self._started: tuple[float, float] | None = None
        self.inside = 0.0
        """Seconds of this round spent in the contender's engine."""

    def __call__(self) -> None:
        self._left -= 1
        while self._left == 0:
            self._answer()
            line = sys.stdin.readline()
            if not line.strip():
                raise SystemExit
            self._left, self.inside = int(line), 0.0
            self._started = time.perf_counter(), time.process_time()

    def _answer(self) -> None:
        if self._started is None:
            _print("ready")
            return
        wall, cpu = self._started
        seconds = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "inside": self.inside,
        }
        _print(json.dumps(seconds))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def bigtrain(precision: str, folder: Path, gate: RoundGate) -> None:
    """All of ``bigtrain train``: data, checks, loop, metrics file and heartbeat."""
    from bigtrain.environment import read_ranks
    from bigtrain.parallel.device import choose_device

    ranks = read_ranks()
    device = choose_device("cpu", ranks)
    from bigtrain.engine.engine import Engine
    from bigtrain.train.run import train
    from bigtrain.train.trainer import Trainer

    steps = Trainer.steps

    def gated(self: Trainer, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for result in steps(self, *args, **kwargs):
            yield result
            gate()

    def timed(phase: Callable[..., Any]) -> Any:
        def call(*args: Any) -> Any:
            started = time.perf_counter()
            answer = phase(*args)
            gate.inside += time.perf_counter() - started
            return answer

        return call

    Trainer.steps = gated  # type: ignore[method-assign]
    for name in ("backward", "reduce", "update"):
        setattr(Engine, name, timed(getattr(Engine, name)))
    train(run_config(precision, folder), ranks=ranks, device=device)


def run_config(precision: str, folder: Path) -> Any:
    """The config of bigtrain's run; ``folder`` holds the corpus."""
    from tests.runs import tiny_config

    return tiny_config(
        folder,
        folder / "runs",
        name=f"speed-{precision}-{time.time_ns()}",
        model={
            "num_layers": LAYERS,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "vocab_size": VOCAB_SIZE,
            "max_sequence_length": LENGTH,
        },
        data={"train": str(folder / "train"), "validation": None, "sequence_length": LENGTH},
        optim={"learning_rate": LEARNING_RATE, "warmup_steps": 10},
        train={
            "steps": 100_000,
            "global_batch_size": ROWS,
            "micro_batch_size": ROWS,
            "precision": precision,
        },
        validation={"every": 100_000},
        checkpoint={"every": 100_000},
        parallel={"device": "cpu", "zero": 1},
    )


def megatron(precision: str, folder: Path, gate: RoundGate) -> None:
    """bigtrain's model and loss with torch's AdamW on fp32 masters: a step without DeepSpeed."""
    from bigtrain.environment import read_ranks
    from bigtrain.parallel.device import choose_device

    ranks = read_ranks()
    device = choose_device("cpu", ranks)
    from bigtrain.config.layout import layout_of
    from bigtrain.models.build import build_chunks, materialize
    from bigtrain.models.loss import token_losses
    from bigtrain.parallel.device import keep_freed_memory
    from bigtrain.parallel.groups import process_groups

    config = run_config(precision, folder)
    layout = layout_of(config, 1)
    with process_groups(ranks, layout, device):
        (chunk,) = build_chunks(config, layout)
        materialize(chunk, device)
        chunk.to(torch.bfloat16 if precision == "bf16" else torch.float32)
        # The same as in bigtrain, so that DeepSpeed is the only difference.
        keep_freed_memory(device)
        for parameter in chunk.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        positions = torch.arange(LENGTH).expand(ROWS, LENGTH)

        def losses(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            logits = chunk(tokens, positions, None)
            return token_losses(logits, targets, vocab_size=VOCAB_SIZE)[0].mean()

        _loop(losses, list(chunk.parameters()), gate)


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm_1(x)).split(WIDTH, dim=2)
        q, k, v = (t.view(*t.shape[:2], HEADS, -1).transpose(1, 2) for t in (q, k, v))
        context = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(context.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class _PlainGpt2(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCAB_SIZE, WIDTH)
        self.positions = torch.nn.Embedding(LENGTH, WIDTH)
        self.blocks = torch.nn.Sequential(*(_Block() for _ in range(LAYERS)))
        self.norm = torch.nn.LayerNorm(WIDTH)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits = functional.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def plain_torch(precision: str, folder: Path, gate: RoundGate, *, compiled: bool = False) -> None:
    """A plain torch model and loop, with autocast for bf16."""
    model: Any = _PlainGpt2()
    parameters = list(model.parameters())
    if compiled:
        model = torch.compile(model)

    def losses(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        with mixed:
            return model(tokens, targets)  # type: ignore[no-any-return]

    _loop(losses, parameters, gate)


def compiled_torch(precision: str, folder: Path, gate: RoundGate) -> None:
    """The plain torch model with torch.compile."""
    plain_torch(precision, folder, gate, compiled=True)


def _loop(losses: Callable[..., torch.Tensor], weights: list[Any], gate: RoundGate) -> None:
    masters = [w if w.dtype is torch.float32 else w.detach().float() for w in weights]
    optimizer = torch.optim.AdamW(
        [
            {"params": [m for m in masters if m.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [m for m in masters if m.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        fused=True,
    )
    while True:
        tokens = torch.randint(0, VOCAB_SIZE, (ROWS, LENGTH + 1))
        losses(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
        for master, weight in zip(masters, weights, strict=True):
            if master is not weight:
                master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if masters[0] is not weights[0]:
            with torch.no_grad():
                torch._foreach_copy_(weights, masters)
        gate()


def hugging_face(precision: str, folder: Path, gate: RoundGate) -> None:
    """Hugging Face's Trainer with GPT2LMHeadModel, SDPA and default options; bf16 is autocast."""
    import transformers

    class Callback(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate()

    shape: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "n_positions": LENGTH,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "attn_implementation": "sdpa",
        "bos_token_id": 0,
        "eos_token_id": 0,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }
    rows = torch.randint(0, VOCAB_SIZE, (512, LENGTH))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hugging_face"),
        per_device_train_batch_size=ROWS,
        max_steps=100_000,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        bf16=precision == "bf16",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        log_level="error",
    )
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.Trainer(
        model=transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)),
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[Callback()],
    ).train()


def products(precision: str, folder: Path, gate: RoundGate) -> None:
    """Matrix products of 2,048 × 2,048 × 2,048, one per step: the peak of this machine."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b, c = (torch.randn(2048, 2048).to(dtype) for _ in range(3))
    while True:
        torch.mm(a, b, out=c)
        gate()


CONTENDERS: dict[str, Callable[[str, Path, RoundGate], None]] = {
    "bigtrain": bigtrain,
    "megatron-core without DeepSpeed": megatron,
    "plain torch": plain_torch,
    "plain torch, compiled": compiled_torch,
    "Hugging Face Trainer": hugging_face,
    "2,048³ products": products,
}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    name, numbers, where = sys.argv[1:]
    CONTENDERS[name](numbers, Path(where), RoundGate())
