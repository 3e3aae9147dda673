"""Help, version, shell completion, and errors in the command line."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from bigtrain import cli
from bigtrain.commands.version import find_commit
from tests.architecture.source_tree import REPOSITORY


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["bigtrain", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["laun"], "no such command 'laun'; did you mean launch?; see `bigtrain --help`"),
        (
            ["shard", "x"],
            "no such command 'shard'; did you mean bigtrain data shard?; see `bigtrain --help`",
        ),
        (
            ["verify"],
            "no such command 'verify'; did you mean bigtrain data verify or "
            "bigtrain checkpoint verify?; see `bigtrain --help`",
        ),
        (
            ["launch", "--procesess", "2"],
            "no such option: --procesess; did you mean --processes?; see `bigtrain launch --help`",
        ),
        (["nothing-like-it"], "no such command 'nothing-like-it'; see `bigtrain --help`"),
        (["rewind", "runs/x"], "missing option '--to'; see `bigtrain rewind --help`"),
        (
            ["generate", "x", "--seed", "y"],
            "invalid value for '--seed': 'y' is not a valid int; see `bigtrain generate --help`",
        ),
        (
            ["data", "verify", "x", "--level", "foo"],
            "invalid value for '--level': 'foo' is not one of 'header', 'crc', 'full'; "
            "see `bigtrain data verify --help`",
        ),
    ],
)
def test_a_wrong_command_line_gives_one_line_with_the_mistake_and_the_help_option(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert _run(words, monkeypatch, capsys) == (2, "", f"bigtrain: {line}\n")


def test_a_group_without_a_command_shows_its_help(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    exit_code, output, errors = _run(["data"], monkeypatch, capsys)
    assert exit_code == 2
    assert "Commands:" in output + errors


def test_the_exit_code_of_a_command_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert _run(["keys", "optim"], monkeypatch, capsys)[0] == 0
    assert _run(["checkpoint", "verify", "nowhere"], monkeypatch, capsys)[0] == 2


def test_version_names_the_commit_and_the_dependencies_without_importing_them(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    loaded = "from bigtrain.commands.version import render_version; render_version()"
    loaded += "; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.stdout == "False\n"
    exit_code, output, _ = _run(["--version"], monkeypatch, capsys)
    assert exit_code == 0
    ours, theirs = output.splitlines()
    assert ours.startswith(f"bigtrain {version('bigtrain')}")
    for name in ("torch", "megatron-core", "DeepSpeed"):
        assert f"{name} {version(name.lower())}" in theirs


def test_version_names_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    head = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if head.returncode:
        pytest.skip("not a git checkout")
    commit = find_commit()
    assert commit is not None
    assert head.stdout.startswith(commit.removesuffix("-dirty"))
    assert f"(commit {commit})" in _run(["--version"], monkeypatch, capsys)[1]


def test_a_repository_around_the_installed_package_is_not_taken_for_its_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "bigtrain"
    package.mkdir(parents=True)
    git = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr("bigtrain.commands.version.__file__", str(package / "commands/version.py"))
    assert find_commit() is None


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("bigtrain lau", "launch"),
        ("bigtrain data sha", "shard"),
        ("bigtrain parity --st", "--steps"),
    ],
)
def test_the_shell_completes_commands_and_options(
    typed: str, completed: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("_BIGTRAIN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    exit_code, output, _ = _run([], monkeypatch, capsys)
    assert (exit_code, output.split()) == (0, [completed])


def test_the_completion_script_is_shown() -> None:
    # The shell is found among the parents of the process; `true` keeps bash from replacing itself.
    show = f"'{sys.executable}' -m bigtrain.cli --show-completion; true"
    shown = subprocess.run(["bash", "-c", show], cwd=REPOSITORY, capture_output=True, text=True)
    assert "complete -o default -F" in shown.stdout
