"""How tokens are chosen, where results go, and which options contradict each other. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bigtrain.generate.errors import GenerationError

DEFAULT_NEW_TOKENS = 64
DEFAULT_SEED = 0
DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next tokens are chosen; by default always the most likely one.

    None means that an option was not given.
    """

    max_new_tokens: int | None = None
    """If None, 64, or fewer if the model's maximum sequence length leaves fewer."""
    sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    num_beams: int = 1
    early_stopping: bool = False
    """Whether the search ends as soon as there are ``num_beams`` finished texts."""
    length_penalty: float | None = None
    num_return: int = 1
    """Texts for each prompt."""
    repetition_penalty: float | None = None
    no_repeat_ngram: int | None = None
    stop: tuple[str, ...] = ()
    """A text ends before the first of these strings."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is done with a model, and where the results go."""

    chat: bool = False
    fill_mask: int | None = None
    """The number of candidates for each masked token; None to continue texts."""
    stream: bool = False
    as_json: bool = False
    out: Path | None = None
    has_prompts: bool = False
    """Whether prompts were given, as arguments or in a file."""


def check_options(decoding: Decoding, task: Task) -> None:
    """Refuses options that contradict each other or have no effect.

    Raises:
        GenerationError: The first contradiction; names the options and the remedy.
    """
    for problem in (*_of_decoding(decoding), *_of_task(decoding, task)):
        raise GenerationError(problem)
    if task.out is not None and task.out.exists():
        raise GenerationError(f"{task.out} exists already; remove it or choose another --out")


def _of_decoding(decoding: Decoding) -> Iterator[str]:
    if decoding.sample:
        if decoding.temperature is not None and not decoding.temperature > 0:
            yield "--temperature 0 always takes the most likely token: leave out --sample"
        if decoding.top_p is not None and not 0 < decoding.top_p <= 1:
            yield f"--top-p {decoding.top_p:g} is not a probability above 0"
    else:
        for name in ("temperature", "top_k", "top_p", "seed"):
            if getattr(decoding, name) is not None:
                yield (
                    f"{_option(name)} needs --sample: without it the most likely token is always "
                    "taken"
                )
    if decoding.num_beams == 1:
        if decoding.early_stopping:
            yield "--early-stopping needs beams, for example --num-beams 5"
        if decoding.length_penalty is not None:
            yield "--length-penalty needs beams, for example --num-beams 5"
        if decoding.num_return > 1 and not decoding.sample:
            yield (
                f"--num-return {decoding.num_return} needs --sample or --num-beams "
                f"{decoding.num_return}: the most likely tokens are one text"
            )
    elif decoding.num_return > decoding.num_beams:
        yield (
            f"--num-return {decoding.num_return} is more than --num-beams {decoding.num_beams}; "
            "each beam gives one text"
        )
    if decoding.repetition_penalty is not None and not decoding.repetition_penalty > 0:
        yield f"--repetition-penalty {decoding.repetition_penalty:g} is not above 0"
    if "" in decoding.stop:
        yield "--stop is empty; give the string that ends a text"


def _of_task(decoding: Decoding, task: Task) -> Iterator[str]:
    if task.stream:
        if decoding.num_beams > 1:
            yield "--stream shows each token when it is chosen, and beams choose at the end"
        if decoding.num_return > 1:
            yield "--stream shows one text for each prompt; leave out --num-return"
        if task.as_json:
            yield "--stream shows text and --json does not; leave out one of them"
    if task.chat:
        given = [
            name
            for name, is_given in (
                ("prompts", task.has_prompts),
                ("--json", task.as_json),
                ("--out", task.out is not None),
                ("--num-return", decoding.num_return > 1),
                ("--fill-mask", task.fill_mask is not None),
            )
            if is_given
        ]
        if given:
            yield (
                f"--chat reads its lines from standard input and writes its answers to standard "
                f"output; leave out {' and '.join(given)}"
            )
    if task.fill_mask is not None:
        if decoding != Decoding() or task.stream:
            yield "--fill-mask takes no options of generation: it shows the most likely tokens"
        if not task.has_prompts:
            yield "--fill-mask needs a prompt with the tokenizer's mask token in it"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
