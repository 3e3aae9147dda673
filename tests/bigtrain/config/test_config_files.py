"""Config files are merged left to right, then overrides apply; the search for config files."""

from pathlib import Path

import pytest

from bigtrain.config import ConfigError, config_files, load_run_config
from tests.bigtrain.config.small_run import ConfigFolder, leaf, refusal


def test_a_later_file_wins_key_by_key(folder: ConfigFolder) -> None:
    folder.write("a.yaml", "seed: 2\nmodel: {num_layers: 8, dropout: 0.1}")
    folder.write("b.yaml", "model: {num_layers: 12}")
    config = folder.load("a.yaml", "b.yaml")
    assert (config.seed, config.model.num_layers, config.model.dropout) == (2, 12, 0.1)
    assert config.model.hidden_size == 48


def test_the_order_of_files_decides(folder: ConfigFolder) -> None:
    folder.write("a.yaml", "seed: 2")
    folder.write("b.yaml", "seed: 3")
    assert folder.load("b.yaml", "a.yaml").seed == 2


def test_an_override_wins_over_every_file_at_any_position(folder: ConfigFolder) -> None:
    folder.write("a.yaml", "seed: 2")
    assert load_run_config(["seed=5", "small.yaml", "a.yaml"]).seed == 5


def test_of_two_overrides_the_later_wins(folder: ConfigFolder) -> None:
    assert folder.load("seed=5", "seed=6").seed == 6


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("model.num_layers=8", "model.num_layers", 8),
        ("optim.learning_rate=1e-4", "optim.learning_rate", 1e-4),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("model.tie_embeddings=false", "model.tie_embeddings", False),
        ("name=no", "name", "no"),
        ("name='012'", "name", "012"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("runs_dir=a=b/c", "runs_dir", "a=b/c"),
        ("seed=0o17", "seed", 15),
        ("model={num_layers: 8}", "model.num_layers", 8),
        ("model={}", "model.num_layers", 4),
        ("model.ffn_hidden_size=", "model.ffn_hidden_size", None),
        ("model.ffn_hidden_size=null", "model.ffn_hidden_size", None),
    ],
)
def test_an_override_is_read_as_yaml(
    folder: ConfigFolder, override: str, path: str, value: object
) -> None:
    read = leaf(folder.load("model.ffn_hidden_size=96", override), path)
    assert (read, type(read)) == (value, type(value))


def test_an_override_creates_a_missing_section(folder: ConfigFolder) -> None:
    assert folder.load("parallel.tensor=2").parallel.tensor == 2


def test_a_run_can_be_given_by_overrides_on_an_empty_file(folder: ConfigFolder) -> None:
    folder.write("empty.yaml", "# nothing yet\n")
    overrides = [
        "name=x",
        "model={num_layers: 1, hidden_size: 8, num_heads: 1, max_sequence_length: 4}",
        "model.vocab_size=9",
        "data={train: c, sequence_length: 4}",
        "optim.learning_rate=1e-3",
        "train={steps: 1, global_batch_size: 1, micro_batch_size: 1}",
    ]
    assert load_run_config(["empty.yaml", *overrides]).name == "x"


@pytest.mark.parametrize("override", ["=3", ".=3", "model.=3", "model..dropout=0", ".seed=1"])
def test_a_key_path_with_empty_parts_is_refused(folder: ConfigFolder, override: str) -> None:
    assert "a key path is words joined by single dots" in folder.refuse(override)


@pytest.mark.parametrize("override", ["seed=[", "seed={a: 1, a: 2}", "seed=!!int x", "seed=\t- a"])
def test_an_override_of_invalid_yaml_is_named(folder: ConfigFolder, override: str) -> None:
    assert folder.refuse(override).startswith(" ".join(override.split()) + ": ")


def test_a_newline_in_an_override_does_not_break_the_message(folder: ConfigFolder) -> None:
    assert "seed=[1," in folder.refuse("seed=[1,\n")


def test_no_file_is_refused_with_an_example() -> None:
    assert "configs/gpt/tiny.yaml" in refusal(["train.steps=3"])


def test_for_a_missing_file_the_installed_configs_are_listed(folder: ConfigFolder) -> None:
    message = folder.refuse("nope.yaml")
    assert message.startswith("nope.yaml: no such config file")
    assert "configs/gpt/tiny.yaml" in message


@pytest.mark.parametrize("name", ["", ".", "a\0b.yaml", "x" * 5000, "small.yaml/more.yaml"])
def test_a_name_that_cannot_be_a_file_is_refused(folder: ConfigFolder, name: str) -> None:
    assert "no such config file" in folder.refuse(name)


def test_an_installed_config_is_found_from_any_folder(folder: ConfigFolder) -> None:
    assert load_run_config(["configs/gpt/tiny.yaml"]).name == "gpt-tiny"


def test_the_working_folder_is_searched_before_the_installed_configs(folder: ConfigFolder) -> None:
    (folder.path / "configs" / "gpt").mkdir(parents=True)
    small = (folder.path / "small.yaml").read_text()
    folder.write("configs/gpt/tiny.yaml", small)
    assert load_run_config(["configs/gpt/tiny.yaml"]).name == "small"


def test_a_file_is_found_by_its_absolute_path(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert load_run_config([str(folder.path / "small.yaml")]).name == "small"


def test_a_file_that_cannot_be_read_is_refused(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", "small.yaml")

    monkeypatch.setattr(config_files.Path, "read_text", deny)
    assert refusal(["small.yaml"]) == "small.yaml: cannot be read: Permission denied"


def test_the_message_names_every_file_that_was_merged(folder: ConfigFolder) -> None:
    folder.write("a.yaml", "seed: -1")
    assert folder.refuse("a.yaml").startswith("small.yaml + a.yaml: seed=-1: ")


def test_a_config_cannot_be_changed(folder: ConfigFolder) -> None:
    with pytest.raises(ValueError, match="frozen"):
        folder.load().model.num_layers = 8  # type: ignore[misc]


def test_the_run_folder_is_the_name_in_the_runs_folder(folder: ConfigFolder) -> None:
    assert folder.load("runs_dir=/data/runs").run_dir == Path("/data/runs/small")


def test_a_config_error_is_always_one_line() -> None:
    assert str(ConfigError("two\nlines\tand\u2028more")) == "two lines and more"
