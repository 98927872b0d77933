"""docs/Dockerfile, docs/jobset.yaml and docs/skypilot.yaml: what they name exists."""

import math
import re
import tomllib
from pathlib import Path

import yaml

from digits_jax.config import load_config

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_image_installs_from_what_is_copied_before() -> None:
    before, after = (ROOT / "docs/Dockerfile").read_text().split("./launch.sh setup")
    copied, later = (
        {name for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", text, re.MULTILINE) for name in line.split()}
        for text in (before, after)
    )
    assert all((ROOT / name).exists() for name in copied | later)
    project, hatch = PROJECT["project"], PROJECT["tool"]["hatch"]
    needed = {project["readme"], *project["license-files"], hatch["version"]["path"]}
    assert needed | {"pyproject.toml", "constraints.txt", "launch.sh"} == copied
    assert later == {*hatch["build"]["targets"]["wheel"]["packages"], "configs"}
    assert set(re.findall(r"EXTRAS=(\w+)", before)) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_jobset_has_a_pod_for_each_host_of_its_slice() -> None:
    jobset = yaml.safe_load((ROOT / "docs/jobset.yaml").read_text())
    assert "kueue.x-k8s.io/queue-name" in jobset["metadata"]["labels"]
    (slice_,) = jobset["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert job["parallelism"] == job["completions"] == chips // container["resources"]["limits"]["google.com/tpu"]
    flags = dict(argument.removeprefix("--").split("=") for argument in container["args"])
    load_config(flags["config"])
    assert flags["workdir"].startswith("gs://")


def test_the_skypilot_job_sets_up_and_trains() -> None:
    job = yaml.safe_load((ROOT / "docs/skypilot.yaml").read_text())
    assert set(job["setup"].split()[2:]) <= set(PROJECT["project"]["optional-dependencies"])
    load_config(re.findall(r"--config=(\S+)", job["run"])[0])
    flags = set(re.findall(r"--(\w+)", job["run"]))
    assert flags == {"config", "workdir", "coordinator", "num_processes", "process_id"}
