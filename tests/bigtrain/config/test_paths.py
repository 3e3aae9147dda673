"""`~` and variables in paths are expanded as in a shell, or refused by name."""

import pwd
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bigtrain.cli import app
from bigtrain.config import ConfigError, load_config
from bigtrain.config.path_arguments import expanded
from bigtrain.config.paths import relative_paths
from bigtrain.config.run import RunConfig
from data_tools.cleaning.clean_config import CleanConfig
from tests.bigtrain.config.small_run import ConfigFolder, leaf

USER = pwd.getpwall()[0]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NESTED", "$SCRATCH/mine")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "/homes/me"),
        ("~/runs", "/homes/me/runs"),
        (f"~{USER.pw_name}/runs", f"{USER.pw_dir}/runs"),
        ("$SCRATCH/runs", "/scratch/runs"),
        ("${SCRATCH}runs", "/scratchruns"),
        ("a/$SCRATCH", "a//scratch"),
        ("cost$/a~b/$", "cost$/a~b/$"),
        ("s3://bucket$SCRATCH/~", "s3://bucket/scratch/~"),
        ("file://~/ck", "file:///homes/me/ck"),
    ],
)
@pytest.mark.parametrize(
    "key", ["runs_dir", "data.cache_dir", "data.validation", "checkpoint.dir", "checkpoint.load"]
)
def test_paths_of_a_run_are_expanded_in_files_and_overrides(
    folder: ConfigFolder, key: str, written: str, meant: str
) -> None:
    if key == "runs_dir" and "://" in written:
        return
    section, _, name = key.rpartition(".")
    file = f"{section}:\n  {name}: '{written}'" if section else f"{name}: '{written}'"
    assert leaf(folder.load_with(file), key) == meant
    assert leaf(folder.load(f"{key}='{written}'"), key) == meant


def test_paths_in_lists_are_expanded_too(folder: ConfigFolder) -> None:
    config = folder.load(
        "data.train=", "data.stages=[{sources: [{corpus: ~/a}, {corpus: $SCRATCH/b}]}]"
    )
    assert config.data.training_corpora == ("/homes/me/a", "/scratch/b")
    validation = folder.load("data.validation=[~/a, $SCRATCH/b]").data.validation_corpora
    assert validation == config.data.training_corpora
    assert "names the corpus /scratch/b twice" in folder.refuse(
        "data.train=", "data.stages=[{sources: [{corpus: $SCRATCH/b}, {corpus: /scratch/b}]}]"
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("$UNSET/runs", "there is no environment variable UNSET; set it"),
        ("${UNSET}", "there is no environment variable UNSET"),
        ("$EMPTY/runs", "the environment variable EMPTY is empty"),
        ("$NESTED", "NESTED is '$SCRATCH/mine', which holds another variable"),
        ("${UNSET:-x}/runs", "${UNSET:-x} is not expanded, only $NAME and ${NAME} are"),
        ("$(pwd)/runs", "$( is not expanded"),
        ("~nobody-of-this-name/runs", "there is no user nobody-of-this-name"),
    ],
)
def test_an_unknown_variable_or_user_is_refused_with_the_key(
    folder: ConfigFolder, written: str, message: str
) -> None:
    for key in ("runs_dir", "checkpoint.dir", "data.train"):
        refused = folder.refuse(f"{key}='{written}'")
        assert refused.startswith(f"{key}={written!r}: ")
        assert message in refused
    assert folder.refuse_with(f"runs_dir: '{written}'").startswith("more.yaml: runs_dir=")
    # An existing folder with the unexpanded name changes nothing.
    Path(written).mkdir(parents=True)
    assert message in folder.refuse(f"runs_dir='{written}'")


def test_a_home_that_is_not_an_absolute_path_is_refused(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "")
    assert "HOME is not an absolute path" in folder.refuse("runs_dir=~/runs")


def test_a_name_may_contain_variables_but_not_a_home(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "me")
    assert folder.load("name=${SHORT}-x").name == "me-x"
    assert "no environment variable UNSET; set it, or write the name out" in folder.refuse(
        "name=$UNSET-x"
    )
    assert "no slash" in folder.refuse("name=$SCRATCH")
    assert "~ means a home folder" in folder.refuse("name=~me")
    assert folder.load("track.project=$UNSET").track.project == "$UNSET"


def test_paths_of_a_cleaning_recipe_are_expanded_and_patterns_are_not(tmp_path: Path) -> None:
    recipe = tmp_path / "clean.yaml"
    recipe.write_text("inputs: [~/texts, '$SCRATCH/*.txt']\nout: ${SCRATCH}/out\nglob: '~*'\n")
    config = load_config([str(recipe)], CleanConfig)
    assert config.inputs == ["/homes/me/texts", "/scratch/*.txt"]
    assert (config.out, config.glob) == ("/scratch/out", "~*")
    command = "pipe:gzip -dc ~/*.gz | awk '{print $1}'"
    recipe.write_text(f'inputs: ["{command}"]\nout: x\n')
    assert load_config([str(recipe)], CleanConfig).inputs == [command]
    assert expanded(command) == command
    with pytest.raises(ConfigError, match=r"out='\$UNSET': there is no environment variable UNSET"):
        load_config([str(recipe), "out=$UNSET"], CleanConfig)


def test_arguments_are_expanded_unless_a_file_has_exactly_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cost$UNSET.txt", "~$note.docx", "$SCRATCH"):  # A shell's glob gives such names.
        (tmp_path / name).write_text("")
    (tmp_path / "~").mkdir()
    paths = ["cost$UNSET.txt", "~$note.docx", "$SCRATCH", "~/x", "$SCRATCH/*.txt", "-"]
    assert expanded(paths) == [*paths[:3], "/homes/me/x", "/scratch/*.txt", "-"]
    assert expanded(Path("~/x")) == Path("/homes/me/x")
    assert expanded(None) is None


COMMANDS = """
launch P
train P
parity P
report P
report x --exported P
rewind P --to 1
export-hf P x
export-hf x P
export-hf x y --text P
generate P
generate x --prompts P
generate x --out P
checkpoint list P
checkpoint verify P
checkpoint diff P x
checkpoint info P
checkpoint prune P
data which --run P --step 1
data tokenizer P --out x
data tokenizer x --out P
data shard P --tokenizer x --out y
data shard x --tokenizer P --out y
data shard x --tokenizer y --out P
data seal P
data clean P
data samples P --mode pad --sequence-length 8
data inspect P
data verify P
data index P
data import-megatron P --tokenizer x --out y
data import-megatron x --tokenizer P --out y
data import-megatron x --tokenizer y --out P
data export-megatron P x
data export-megatron x P
"""


@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_every_command_expands_its_paths_or_names_the_variable(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["$UNSET/p" if word == "P" else word for word in command.split()]
    answer = CliRunner().invoke(app, words)
    assert isinstance(answer.exception, ConfigError), answer.output
    expected = "$UNSET/p: there is no environment variable UNSET; set it, or write the path out"
    assert str(answer.exception) == expected
    assert not [*tmp_path.iterdir()]


def test_every_path_key_of_a_run_is_declared_as_a_path() -> None:
    stages: list[Any] = [{"sources": [{"corpus": "c1"}, {"corpus": "c2"}]}]
    values = {
        "runs_dir": "r",
        "data": {"train": "t", "stages": stages, "validation": ["v"], "tokenizer": "k"}
        | {"cache_dir": "s3://far/away"},
        "checkpoint": {"dir": "d", "load": "/abs"},
    }
    assert sorted(relative_paths(values, RunConfig)) == ["c1", "c2", "d", "k", "r", "t", "v"]
