"""Variables of a profile that look like secrets are named before they are written into files."""

import pytest

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.secret_variables import render_secrets_warning


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("WANDB_API_KEY", "a1b2", True),
        ("HF_TOKEN", "hf_x", True),
        ("aws_secret_access", "x", True),
        ("MLFLOW_TRACKING_PASSWORD", "x", True),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("SSH_KEY", "/home/me/.ssh/id_rsa", False),
        ("HF_TOKEN", "", False),
        ("NCCL_DEBUG", "INFO", False),
    ],
)
def test_a_variable_looks_like_a_secret_by_its_name(name: str, value: str, is_secret: bool) -> None:
    profile = ClusterConfig(environment={name: value})
    assert (render_secrets_warning(profile) is not None) is is_secret


def test_exports_of_the_prolog_count_unless_the_shell_computes_them() -> None:
    prolog = (
        "export A_KEY='x1'; export B_TOKEN=$(cat ~/.token)",
        'C_SECRET="x2" true',
        "source ~/.secrets",
    )
    line = render_secrets_warning(ClusterConfig(prolog=prolog, environment={"D_KEY": "x3"}))
    assert line is not None
    assert line.startswith("D_KEY, A_KEY, C_SECRET of the profile look like secrets, and are ")
    assert "x1" not in line and "\n" not in line


def test_hosts_have_no_batch_script() -> None:
    profile = ClusterConfig(scheduler="hosts", hosts=("a",), environment={"A_KEY": "x"})
    line = render_secrets_warning(profile)
    assert line is not None and "job.json" in line and "job.sh" not in line
