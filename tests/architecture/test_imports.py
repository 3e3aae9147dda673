"""Import rules: packages import in one direction, and each foreign library has one owner."""

import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.architecture.source_tree import (
    PACKAGES,
    REPOSITORY,
    Reference,
    Source,
    device_forks,
    find_references,
    is_within,
    load_sources,
)

Rule = Callable[[Source], Iterator[Reference]]

FORMAT_MODULES = tuple(
    f"data_tools.{name}"
    for name in (
        *("corpus", "manifest", "remote_files", "samples.sample_table", "tokenizer"),
        "samples.plan_rows",  # The packing of answers depends on the run's sequence length.
        *("labels.label_table", "errors", "files", "locks", "progress"),
    )
)
"""The modules of data_tools that bigtrain may import: file formats, tokenizer, file helpers."""

SUBMITTERS = ("data_tools.cluster",)
"""The modules of data_tools that submit its jobs, and may import the launcher's SLURM modules."""

_BEFORE_MODELS = {"config", "parallel", "track", "health"}
_BEFORE_TRAIN = _BEFORE_MODELS | {"models", "data", "objectives", "engine", "checkpoint", "runs"}
MAY_IMPORT: dict[str, set[str]] = {
    "environment": set(),
    "config": set(),
    "plan": {"config"},
    "parallel": {"config"},
    "track": {"config"},
    "health": {"config"},
    "models": _BEFORE_MODELS,
    "data": _BEFORE_MODELS | {"models"},
    "objectives": {"config", "parallel", "models", "data"},
    "engine": _BEFORE_MODELS | {"models", "data"},
    "checkpoint": _BEFORE_MODELS | {"models", "data", "engine"},
    "runs": {"config", "plan", "track", "data", "checkpoint"},
    "train": _BEFORE_TRAIN | {"plan"},
    "evaluate": _BEFORE_TRAIN | {"train", "plan"},
    "parity": _BEFORE_TRAIN | {"train"},
    "convert": {"config", "plan", "parallel", "models", "checkpoint"},
    "generate": {"config", "checkpoint", "convert"},
    "commands": _BEFORE_TRAIN | {"plan", "train", "evaluate", "parity", "convert", "generate"},
    "cli": {"commands"},
}
"""The packages that each package of bigtrain may import, from the bottom of the import order up.

Packages outside `WITHOUT_ENVIRONMENT` may also import `environment`.
"""
WITHOUT_ENVIRONMENT = {"config", "plan", "environment", "cli"}

OWNERS: dict[str, tuple[str, ...]] = {
    "deepspeed": ("bigtrain.engine",),
    "deepspeed.runtime": ("bigtrain.engine.private",),
    "megatron": ("bigtrain.parallel", "bigtrain.models", "bigtrain.engine"),
    "megatron.core.parallel_state": ("bigtrain.parallel.groups",),
    "megatron.core.tensor_parallel.random": ("bigtrain.parallel.groups", "bigtrain.parallel.cpu"),
    "megatron.core.pipeline_parallel": ("bigtrain.parallel.schedule",),
    "torch.distributed.checkpoint": ("bigtrain.checkpoint",),
    "torch.cuda": ("bigtrain.parallel.device", "bigtrain.parallel.cpu"),
    "wandb": ("bigtrain.track",),
    "tensorboard": ("bigtrain.track",),
    "tensorboardX": ("bigtrain.track.tensorboard_sink",),
    "mlflow": ("bigtrain.track",),
    "torch.utils.tensorboard": ("bigtrain.track",),
    "safetensors": ("bigtrain.convert", "bigtrain.generate", "bigtrain.evaluate.hugging_face"),
    "transformers": (
        "bigtrain.convert",
        "bigtrain.generate",
        "bigtrain.evaluate.hugging_face",
        "data_tools.tokenizer",
    ),
    "lm_eval": ("bigtrain.evaluate.harness",),
    "tokenizers": ("data_tools.tokenizer",),
    "sentencepiece": ("data_tools.tokenizer",),
    "webdataset": ("data_tools.reading.webdataset_rules",),
    "pyarrow": ("data_tools.reading",),
    "datasketch": ("data_tools.cleaning",),
    "fsspec": ("data_tools.reading", "data_tools.remote_files", "bigtrain.checkpoint.object_store"),
    **dict.fromkeys(
        ("os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"),
        ("bigtrain.environment", "launcher.environment"),
    ),
}
"""The modules, or packages of modules, that may use a foreign name."""

CALL_OWNERS: dict[str, tuple[str, ...]] = {
    "megatron.core.transformer.transformer_config.TransformerConfig": ("bigtrain.models.translate",)
}
"""The modules that may call a foreign class; other modules may use it as a type."""

TORCH_FREE = (
    "data_tools",
    "launcher",
    *(
        f"bigtrain.{name}"
        for name in ("config", "environment", "plan", "health", "runs", "commands", "cli")
    ),
)
HEAVY = (
    *("torch", "deepspeed", "megatron", "wandb", "mlflow", "tensorboardX", "safetensors"),
    "pydantic_settings",
)


def data_tools_and_launcher_import_only_bigtrain_config(source: Source) -> Iterator[Reference]:
    allowed = {name: (name, "bigtrain.config") for name in ("data_tools", "launcher")}
    package = source.module.split(".")[0]
    if is_within(source.module, SUBMITTERS):
        yield from _own_imports_except(source, (*allowed["data_tools"], "launcher.slurm"))
    elif package in allowed:
        yield from _own_imports_except(source, allowed[package])


def bigtrain_imports_only_format_modules_of_data_tools(source: Source) -> Iterator[Reference]:
    if is_within(source.module, ("bigtrain.cli",)):
        yield from _own_imports_except(source, ("bigtrain", "data_tools.cli"))
    elif is_within(source.module, ("bigtrain.commands",)):
        yield from _own_imports_except(source, ("bigtrain", "launcher", *FORMAT_MODULES))
    elif is_within(source.module, ("bigtrain",)):
        yield from _own_imports_except(source, ("bigtrain", *FORMAT_MODULES))


def packages_import_only_what_they_may(source: Source) -> Iterator[Reference]:
    top, package, *_ = [*source.module.split("."), ""]
    if top != "bigtrain":
        return
    allowed = {package, *MAY_IMPORT.get(package, set())}
    if package and package not in WITHOUT_ENVIRONMENT:
        allowed.add("environment")
    for reference in find_references(source):
        parts = reference.name.split(".")
        if parts[0] == "bigtrain" and len(parts) > 1 and parts[1] not in allowed:
            yield reference


def foreign_libraries_have_one_owner(source: Source) -> Iterator[Reference]:
    for reference in find_references(source):
        for owned, owners in OWNERS.items():
            if is_within(reference.name, (owned,)) and not is_within(source.module, owners):
                yield reference
        callers = CALL_OWNERS.get(reference.name)
        if reference.is_call and callers and not is_within(source.module, callers):
            yield reference


def only_device_modules_depend_on_cuda(source: Source) -> Iterator[Reference]:
    if not is_within(source.module, OWNERS["torch.cuda"]):
        yield from device_forks(source)


def torch_free_modules_import_no_heavy_package(source: Source) -> Iterator[Reference]:
    if is_within(source.module, TORCH_FREE):
        for reference in find_references(source):
            if is_within(reference.name, HEAVY):
                yield reference


def _own_imports_except(source: Source, allowed: Sequence[str]) -> Iterator[Reference]:
    for reference in find_references(source):
        if is_within(reference.name, PACKAGES) and not is_within(reference.name, allowed):
            yield reference


RULES: tuple[Rule, ...] = (
    data_tools_and_launcher_import_only_bigtrain_config,
    bigtrain_imports_only_format_modules_of_data_tools,
    packages_import_only_what_they_may,
    foreign_libraries_have_one_owner,
    torch_free_modules_import_no_heavy_package,
    only_device_modules_depend_on_cuda,
)
SOURCES = load_sources()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_all_modules_obey_the_import_rule(rule: Rule) -> None:
    broken = [str(reference) for source in SOURCES for reference in rule(source)]
    assert not broken, "\n".join(broken)


def test_every_package_has_an_import_rule() -> None:
    packages = {source.module.split(".")[1] for source in SOURCES if "bigtrain." in source.module}
    assert packages <= set(MAY_IMPORT)


def test_a_package_imports_only_packages_above_it_in_the_table() -> None:
    above: set[str] = set()
    for package, allowed in MAY_IMPORT.items():
        assert allowed <= above, f"{package} may import {allowed - above}, which is below it"
        above.add(package)


def test_the_table_in_the_readme_has_this_order() -> None:
    readme = (REPOSITORY / "bigtrain/README.md").read_text(encoding="utf-8")
    table = readme.partition("| package |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, re.MULTILINE)
    packages = {source.module.split(".")[1] for source in SOURCES if "bigtrain." in source.module}
    assert named == [each for each in MAY_IMPORT if each in packages - {"environment"}]


def test_the_search_finds_known_imports() -> None:
    names = {reference.name for source in SOURCES for reference in find_references(source)}
    assert {"torch", "deepspeed", "bigtrain.config.RunConfig", "data_tools.cli.app"} <= names


@pytest.mark.parametrize(
    ("rule", "module", "text"),
    [
        (RULES[0], "data_tools.corpus", "import bigtrain.models.gpt"),
        (RULES[0], "data_tools.corpus", "import bigtrain"),
        (RULES[0], "data_tools.corpus", "def f():\n    from launcher import local"),
        (RULES[0], "data_tools.corpus", "import importlib\nimportlib.import_module('launcher.x')"),
        (RULES[0], "data_tools.jobs.workers", "from launcher.slurm.client import list_queue"),
        (RULES[0], "data_tools.cluster.status", "from launcher.local import run_local"),
        (RULES[0], "data_tools.cluster.status", "from bigtrain.commands import launch"),
        (RULES[0], "launcher.local", "from bigtrain.train.run import train"),
        (RULES[0], "launcher.local", "from bigtrain.environment import Ranks"),
        (RULES[0], "launcher.local", "import data_tools.corpus"),
        (RULES[0], "launcher.local", "from bigtrain import train"),
        (
            RULES[1],
            "bigtrain.data.batches",
            "from data_tools.sharding.shard_corpus import shard_corpus",
        ),
        (RULES[1], "bigtrain.data.batches", "from data_tools import cli"),
        (RULES[1], "bigtrain.data.batches", "import launcher.local"),
        (RULES[1], "bigtrain.environment", "import data_tools.verify_corpus as verify"),
        (RULES[1], "bigtrain.commands.which", "from data_tools.cli import app"),
        (RULES[1], "bigtrain.cli", "from launcher.local import run_local"),
        (RULES[1], "bigtrain.runs.launch_end", "from launcher.local import LaunchResult"),
        (RULES[2], "bigtrain.config.run", "from bigtrain.parallel.groups import batch_group"),
        (RULES[2], "bigtrain.config.run", "from bigtrain.environment import Ranks"),
        (RULES[2], "bigtrain.config.run", "from ..parallel import layout"),
        (RULES[2], "bigtrain.config.run", "from .. import train"),
        (RULES[2], "bigtrain.parallel.groups", "if True:\n    import bigtrain.models.gpt"),
        (RULES[2], "bigtrain.parallel.groups", "import bigtrain\nbigtrain.track.open()"),
        (RULES[2], "bigtrain.track.tracker", "from bigtrain.parallel import groups"),
        (RULES[2], "bigtrain.models.gpt", "from bigtrain.data import batches"),
        (RULES[2], "bigtrain.objectives.next_token", "from bigtrain.engine.engine import Engine"),
        (RULES[2], "bigtrain.data.batches", "from bigtrain.objectives.table import objective_of"),
        (RULES[2], "bigtrain.engine.engine", "from bigtrain.checkpoint import format"),
        (RULES[2], "bigtrain.train.run", "from bigtrain.cli import main"),
        (RULES[2], "bigtrain.train.run", "from bigtrain.commands.train import train"),
        (RULES[2], "bigtrain.runs.rewind", "from bigtrain.engine.engine import Engine"),
        (RULES[2], "bigtrain.runs.rewind", "from bigtrain.train.run import train"),
        (RULES[2], "bigtrain.checkpoint.owner", "from bigtrain.runs.run_lock import run_lock"),
        (RULES[2], "bigtrain.cli", "from bigtrain.convert.export import export_hf"),
        (RULES[2], "bigtrain.train.run", "from bigtrain.convert.export import export"),
        (RULES[2], "bigtrain.convert.export", "from bigtrain.train.run import train"),
        (RULES[2], "bigtrain.convert.export", "from bigtrain.engine.engine import Engine"),
        (RULES[2], "bigtrain.plan", "from bigtrain.parallel.groups import batch_group"),
        (RULES[2], "bigtrain.environment", "from bigtrain.config import RunConfig"),
        (RULES[3], "bigtrain.train.run", "import deepspeed"),
        (RULES[3], "bigtrain.engine.engine", "from deepspeed.runtime.zero import stage_1_and_2"),
        (RULES[3], "bigtrain.engine.engine", "import deepspeed\ndeepspeed.runtime.engine.x()"),
        (RULES[3], "bigtrain.data.batches", "import megatron.core"),
        (RULES[3], "bigtrain.models.gpt", "from megatron.core import parallel_state as state"),
        (RULES[3], "bigtrain.engine.engine", "import megatron.core.pipeline_parallel.schedules"),
        (RULES[3], "bigtrain.train.run", "import torch.distributed as d\nd.checkpoint.save()"),
        (RULES[3], "bigtrain.train.run", "import torch\nx = torch.cuda.is_available()"),
        (RULES[3], "bigtrain.train.run", "from torch import cuda"),
        (RULES[3], "bigtrain.train.run", "def f():\n    import wandb"),
        (RULES[3], "bigtrain.checkpoint.schema", "from safetensors.torch import save_file"),
        (RULES[3], "bigtrain.models.gpt", "from transformers import GPT2Config"),
        (RULES[3], "bigtrain.data.batches", "import sentencepiece"),
        (RULES[3], "bigtrain.data.batches", "import webdataset as wds"),
        (RULES[3], "bigtrain.train.run", "import os\nos.environ['X'] = '1'"),
        (RULES[3], "launcher.local", "import os as o\no.getenv('X')"),
        (RULES[3], "data_tools.files", "from os import environ"),
        (
            RULES[3],
            "bigtrain.models.gpt",
            "from megatron.core.transformer.transformer_config import TransformerConfig as T\nT()",
        ),
        (RULES[4], "launcher.local", "def f():\n    import torch.distributed"),
        (RULES[4], "bigtrain.config.run", "from torch import Tensor"),
        (RULES[4], "bigtrain.runs.rewind", "def f():\n    import torch"),
        (RULES[5], "bigtrain.models.gpt", "if device.type == 'cuda':\n    pass"),
        (RULES[5], "bigtrain.models.gpt", "x = y if 'cuda' in str(device) else z"),
        (RULES[5], "bigtrain.models.gpt", "match kind:\n    case 'cuda':\n        pass"),
        (RULES[5], "bigtrain.models.gpt", "x = y.is_cuda"),
        (RULES[5], "bigtrain.models.gpt", "model.cuda()"),
    ],
)
def test_the_rule_detects_a_violation(rule: Rule, module: str, text: str) -> None:
    assert list(rule(Source(module, text))), f"{rule.__name__} does not detect {text!r} in {module}"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("data_tools.corpus", "from data_tools.errors import InputError\nimport numpy"),
        ("data_tools.cluster.status", "from launcher.slurm.client import list_queue"),
        ("launcher.local", "from bigtrain.config import RunConfig\nfrom bigtrain import config"),
        ("bigtrain.cli", "from data_tools.cli import app\nfrom bigtrain.commands import train"),
        ("bigtrain.commands.launch", "from launcher.local import run_local"),
        ("bigtrain.commands.export_hf", "from bigtrain.convert.export import export_hf"),
        ("bigtrain.runs.rewind", "from bigtrain.checkpoint.commit import open_state"),
        ("bigtrain.train.run", "from bigtrain.track import console\nimport bigtrain.data.batches"),
        ("bigtrain.parallel.device", "import torch\ntorch.cuda.set_device(0)"),
        ("bigtrain.engine.private", "from deepspeed.runtime.zero import x"),
        ("bigtrain.engine.engine", "import deepspeed\nengine.cuda.environ.wandb"),
        ("bigtrain.parallel.device", "import torch\ntorch.cuda.x() if d == 'cuda' else 0"),
        ("bigtrain.environment", "import os\nos.environ.get('RANK')"),
        ("bigtrain.models.norm", "import os\nos.sched_getaffinity(0)"),
        ("bigtrain.convert.gpt2", "from transformers import GPT2Config"),
    ],
)
def test_allowed_imports_break_no_rule(module: str, text: str) -> None:
    assert not [reference for rule in RULES for reference in rule(Source(module, text))]
