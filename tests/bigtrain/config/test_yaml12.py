"""Scalars are read by YAML 1.2's core schema, and written so that they read back equal."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.config import ConfigError
from bigtrain.config.yaml12 import parse_yaml, render_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        ("-.inf", -math.inf),
        ("0", 0),
        ("+5", 5),
        ("-7", -7),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_a_plain_scalar_is_a_number_a_boolean_or_null(text: str, value: Any) -> None:
    read = parse_yaml(f"key: {text}")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "off", "y", "N", "tRue", "nULL", "inf", "NaN", "+.nan", "=", "--", "."],
)
def test_booleans_of_yaml_1_1_are_strings(text: str) -> None:
    assert parse_yaml(f"key: {text}") == {"key": text}


@pytest.mark.parametrize(
    "text",
    ["1_000", "-0o17", "0o8", "0b11", "0xg", "1:30", "2024-01-01", "1.2.3", "1e", "e4"],
)
def test_numbers_of_yaml_1_1_are_strings(text: str) -> None:
    assert parse_yaml(f"key: {text}") == {"key": text}


def test_nan_is_read_as_a_float() -> None:
    assert math.isnan(parse_yaml(".nan"))


def test_quotes_and_the_str_tag_make_a_number_a_string() -> None:
    assert parse_yaml("[\"1\", '2', !!str 3]") == ["1", "2", "3"]


def test_an_alias_stands_for_its_anchor() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    with pytest.raises(ConfigError, match=r"line 4: the key 'a' was already given on line 1"):
        parse_yaml("a: 1\nb:\n  a: 2\na: 3")


def test_a_duplicate_key_inside_a_section_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"line 3: the key 'x' was already given on line 2"):
        parse_yaml("a:\n  x: 1\n  x: 1")


@pytest.mark.parametrize("key", ["1", "~", "true", "1.5", "? [a]\n", "? {a: 1}\n", "!!merge <<"])
def test_a_key_that_is_not_a_string_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="line 1: a key is a word"):
        parse_yaml(f"{key}: 3")


@pytest.mark.parametrize(
    "tag", ["!!timestamp", "!!binary", "!!set", "!!omap", "!mine", "!!python/name:os.system"]
)
def test_a_tag_outside_the_core_schema_is_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match="line 2: not readable as YAML: could not determine"):
        parse_yaml(f"a: 1\nb: {tag} x")


@pytest.mark.parametrize("text", ["!!int abc", "!!float abc", "!!bool abc"])
def test_a_value_that_does_not_fit_its_tag_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="abc"):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 19, "-" + "9" * 400, "0x" + "f" * 9000])
def test_an_integer_beyond_64_bits_is_refused_with_a_short_message(text: str) -> None:
    message = r"line 1: .* is not a whole number below 2\^63"
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["[" * 1200, "{a: " * 1200 + "1" + "}" * 1200])
def test_very_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml(text)


@pytest.mark.parametrize(
    "text", ["a:\n\tb: 1", "a: [", "a: 1\n---\nb: 2", "a: \0", "a: &x {b: *x}"]
)
def test_broken_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not readable as YAML"):
        parse_yaml(text)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))),
    st.from_regex(r"[-+]?[0-9._:oxeE]{1,6}", fullmatch=True),
    st.sampled_from(["no", "on", "~", "null", "=", "<<", "0o17", "1e-4", "012", "2024-01-01"]),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), _SCALARS))
def test_written_values_read_back_equal(values: dict[str, Any]) -> None:
    read = parse_yaml(render_yaml(values))
    assert read == values
    assert [type(value) for value in read.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize("word", ["no", "on", "012", "2024-01-01", "1_000", "1:30", "0b11"])
def test_a_yaml_1_1_reader_reads_the_same_strings(word: str) -> None:
    assert yaml.safe_load(render_yaml({"name": word})) == {"name": word}
