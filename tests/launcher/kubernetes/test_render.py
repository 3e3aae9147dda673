"""The objects of Kubernetes for a run: valid for the API, the same bytes each time, complete."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bigtrain.commands.render_kubernetes import render_kubernetes
from bigtrain.config import ConfigError, RunConfig
from bigtrain.runs.resolve_run import resolve_run
from launcher.kubernetes.render import KubernetesJob, kubernetes_name, render_kubernetes_job

GOLDEN = Path(__file__).with_name("gpt-1b.yaml")
VERSIONS = ("1.31", "1.37")
JOB = KubernetesJob(
    run="gpt-1b",
    config="name: gpt-1b\nseed: 1\n",
    nodes=4,
    gpus_per_node=8,
    image="registry.example/bigtrain:0.1.0",
    claim="shared",
    mount="/mnt/bigtrain",
)
TINY = "configs/gpt/tiny.yaml"


def _objects(text: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def _tiny(*overrides: str) -> RunConfig:
    return resolve_run([TINY, "train.global_batch_size=256", *overrides])


def test_the_text_is_as_reviewed() -> None:
    assert render_kubernetes_job(JOB) == GOLDEN.read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("gpus", [8, 0])
def test_the_objects_are_valid_for_the_api(version: str, gpus: int) -> None:
    text = render_kubernetes(_tiny(), nodes=2, gpus_per_node=gpus)
    objects = _objects(text)
    assert [*objects] == ["ConfigMap", "Service", "Job"]
    for each in objects.values():
        kubernetes_validate.validate(each, version, strict=True)


def test_the_validator_detects_a_mistake() -> None:
    job = _objects(render_kubernetes_job(JOB))["Job"]
    job["spec"]["template"]["spec"]["restartPolicyy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


def test_the_pods_read_the_config_that_was_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _tiny("train.steps=77")
    text = _objects(render_kubernetes(config, nodes=2))["ConfigMap"]["data"]["run.yaml"]
    (tmp_path / "run.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert resolve_run(["run.yaml"]) == config.model_copy(update={"relative_to": str(tmp_path)})


def test_names_address_selector_and_mounts_fit_together() -> None:
    objects = _objects(render_kubernetes_job(JOB))
    service, job = objects["Service"], objects["Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    name = job["metadata"]["name"]
    # The host name of the pod with index 0, in the domain of the Service.
    assert env["MASTER_ADDR"] == f"{name}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert (
        service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    )
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }
    rule, _ = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4


@pytest.mark.parametrize(
    ("run", "begin"),
    [("7b", "run-7b-"), ("GPT_Tiny.v2", "gpt-tiny-v2-"), ("x" * 80, f"{'x' * 45}-")],
)
def test_a_name_that_kubernetes_refuses_is_changed(run: str, begin: str) -> None:
    assert kubernetes_name("gpt-tiny") == "gpt-tiny"
    assert re.fullmatch(re.escape(begin) + "[0-9a-f]{6}", kubernetes_name(run))
    assert len(kubernetes_name(run)) <= 52


def test_two_runs_never_get_the_same_name() -> None:
    assert len({kubernetes_name(run) for run in ("a-b", "a_b", "a.b", "A-B", "a--b", "a-b-")}) == 6


def test_a_path_outside_the_volume_is_refused() -> None:
    config = _tiny("data.train=/data/corpus/train")
    with pytest.raises(ConfigError, match=r"data\.train=/data/corpus/train is not in the pods"):
        render_kubernetes(config, nodes=2)
    assert "/data/corpus/train" in render_kubernetes(config, nodes=2, mount="/data")


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a multiple of 4 processes, not 3"):
        render_kubernetes(_tiny("parallel.tensor=4"), nodes=3, gpus_per_node=1)


def test_a_run_on_cpus_has_one_rank_in_a_pod_and_no_gpu() -> None:
    config = _tiny("parallel.device=cpu")
    (container,) = _objects(render_kubernetes(config, nodes=2))["Job"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert "--processes=1" in container["args"]
    assert "nvidia.com/gpu" not in str(container["resources"])
    with pytest.raises(ConfigError, match="uses no GPUs"):
        render_kubernetes(config, nodes=2, gpus_per_node=8)
