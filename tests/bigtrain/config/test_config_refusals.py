"""A wrong config gives one line with the key's path, the value and the remedy."""

import pytest

from tests.bigtrain.config.small_run import ConfigFolder, refusal


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        (
            "model.num_layer=3",
            "model.num_layer=3: there is no such key; did you mean model.num_layers?",
        ),
        ("model.num-layers=3", "did you mean model.num_layers?"),
        ("modle.num_layers=3", "did you mean model?"),
        ("steps=3", "did you mean train.steps?"),
        ("every=3", "did you mean validation.every or checkpoint.every?"),
        ("model.steps=3", "did you mean train.steps?"),
        ("parallel.zzz=3", "known keys: device, first_stage_layers"),
        ("zzz.num_layers=3", "there is no such key"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_key(
    folder: ConfigFolder, override: str, remedy: str
) -> None:
    assert remedy in folder.refuse(override)


def test_for_a_dotted_key_in_a_file_its_section_is_named(folder: ConfigFolder) -> None:
    assert "write num_layers under model:" in folder.refuse_with("model.num_layers: 3")


def test_a_merge_key_is_an_unknown_key(folder: ConfigFolder) -> None:
    assert "model.<<=" in folder.refuse_with("model: {<<: {num_layers: 3}}")


@pytest.mark.parametrize("value", ["true", "1.5", "abc", "'100'", "1_000", "1e3", "[1]", "", "~"])
def test_only_integers_are_accepted_for_integer_keys(folder: ConfigFolder, value: str) -> None:
    message = folder.refuse(f"train.steps={value}")
    assert "train.steps=" in message
    assert message.endswith("give a whole number")


@pytest.mark.parametrize("value", ["true", "abc", "'1e-3'", "{}"])
def test_only_numbers_are_accepted_for_number_keys(folder: ConfigFolder, value: str) -> None:
    assert folder.refuse(f"optim.learning_rate={value}").endswith("give a number")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_learning_rate_must_be_finite(folder: ConfigFolder, value: str) -> None:
    assert "optim.learning_rate=" in folder.refuse(f"optim.learning_rate={value}")


@pytest.mark.parametrize("value", ["no", "on", "0", "1", "'true'"])
def test_only_true_and_false_are_booleans(folder: ConfigFolder, value: str) -> None:
    assert folder.refuse(f"model.tie_embeddings={value}").endswith("give true or false")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps=0: give a number above 0"),
        ("train.steps=-5", "train.steps=-5: give a number above 0"),
        ("train.steps=2147483648", "train.steps=2147483648: give a number below 2147483648"),
        ("seed=-1", "seed=-1: give 0 or more"),
        ("optim.learning_rate=0", "optim.learning_rate=0: give a number above 0"),
        ("model.dropout=1", "model.dropout=1: give a number below 1"),
        ("model.dropout=.nan", "model.dropout=nan: give a number below 1"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1: give 0 or more"),
        ("parallel.zero=true", "parallel.zero=true: give a whole number"),
        ("parallel.zero=7", "parallel.zero=7: give "),
        ("track.wandb=offf", "track.wandb='offf': give 'auto', 'online', 'offline' or 'off'"),
        ("name=3", "name=3: give text; quote it"),
        ("seed.x=3", "seed={'x': 3}: give a whole number"),
    ],
)
def test_for_a_value_out_of_range_the_range_is_named(
    folder: ConfigFolder, override: str, message: str
) -> None:
    assert message in folder.refuse(override)


@pytest.mark.parametrize("value", ["", "~", "[1, 2]", "3", "abc"])
@pytest.mark.parametrize("section", ["model", "parallel"])
def test_a_value_in_place_of_a_section_is_refused(
    folder: ConfigFolder, section: str, value: str
) -> None:
    message = folder.refuse_with(f"{section}: {value}")
    assert f"{section}=" in message
    assert "this is a section; give keys under it (" in message


def test_a_missing_key_is_named_with_an_example(folder: ConfigFolder) -> None:
    folder.write("part.yaml", (folder.path / "small.yaml").read_text().replace("steps: 20, ", ""))
    assert "train.steps is missing; set it in the YAML file or as train.steps=VALUE" in refusal(
        ["part.yaml"]
    )


def test_missing_sections_are_all_named_with_a_key_to_start_from(folder: ConfigFolder) -> None:
    folder.write("part.yaml", "name: x")
    message = refusal(["part.yaml"])
    assert "model.num_layers=VALUE (and 3 more: " in message
    assert all(f"{section} is missing" in message for section in ("model", "data", "train"))


def test_of_many_problems_the_first_few_are_shown(folder: ConfigFolder) -> None:
    message = folder.refuse(*(f"model.zzz{i}=1" for i in range(50)))
    assert "(and 49 more: " in message
    assert message.count("there is no such key") == 5


@pytest.mark.parametrize("content", ["- a", "abc", "3", "&a [*a]"])
def test_a_file_that_is_not_a_mapping_is_refused(folder: ConfigFolder, content: str) -> None:
    assert folder.refuse_with(content).startswith("more.yaml: a config is a mapping")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: caf\xe9\n", "not UTF-8 at byte 9"),
        ("seed: 3\n".encode("utf-16"), "not UTF-8 at byte 0"),
        ("model:\n\tdropout: 0\n", "line 2: not readable as YAML"),
        ("seed: 1\nseed: 1\n", "line 2: the key 'seed' was already given on line 1"),
    ],
)
def test_invalid_yaml_is_refused_with_its_position(
    folder: ConfigFolder, content: str | bytes, reason: str
) -> None:
    assert folder.refuse_with(content).startswith(f"more.yaml: {reason}")


def test_a_byte_order_mark_is_not_part_of_the_first_key(folder: ConfigFolder) -> None:
    assert folder.load_with(b"\xef\xbb\xbfseed: 3\n").seed == 3


def test_exponentially_nested_aliases_give_a_short_message(folder: ConfigFolder) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30)]
    assert len(folder.refuse_with("\n".join(lines))) < 2000


def test_a_long_text_is_abbreviated_in_the_message(folder: ConfigFolder) -> None:
    assert len(folder.refuse_with("word " * 10_000)) < 200


def test_a_key_of_a_thousand_dots_is_refused(folder: ConfigFolder) -> None:
    assert "there is no such key" in folder.refuse("a" + ".b" * 2000 + "=1")


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "a\\b", '"a\\nb"', '"a\\eb"', '" a"', "x" * 201]
)
def test_a_name_that_cannot_be_a_folder_name_is_refused(folder: ConfigFolder, name: str) -> None:
    message = folder.refuse(f"name={name}")
    assert "name=" in message
    assert len(message) < 300


@pytest.mark.parametrize("path", ['""', '" "', '"a\\0b"', '"a\\nb"'])
@pytest.mark.parametrize("key", ["runs_dir", "data.train", "data.validation"])
def test_an_invalid_path_is_refused(folder: ConfigFolder, key: str, path: str) -> None:
    assert "a path must not be empty or contain control characters" in folder.refuse(
        f"{key}={path}"
    )
