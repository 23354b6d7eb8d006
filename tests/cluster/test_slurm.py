# SPDX-License-Identifier: Apache-2.0
"""The batch script of a run: the one shown in docs/slurm.md, and what settings change in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from megacpt.cluster.slurm import BODY, job_name, render
from megacpt.config.compose import compose
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError
from megacpt.plan.check import violations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
PYTHON = "/shared/envs/megacpt/bin/python"
TWO_NODES = ("run_dir=/shared/runs/law", "cluster=slurm", "cluster.nodes=2", "parallel.dp=16")


def block(kind: str, *, first: str) -> str:
    """The block of the page that begins with a line."""
    found = re.search(
        rf"^```{kind}\n({re.escape(first)}\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found.group(1)


def rendered(*settings: str) -> str:
    return render(compose([*TWO_NODES, *settings]), python=PYTHON)


def head(*settings: str) -> str:
    return rendered(*settings).partition(BODY)[0]


@pytest.fixture
def law70b(tmp_path: Path) -> RunConfig:
    (tmp_path / "law70b.yaml").write_text(block("yaml", first="# law70b.yaml"))
    return compose(["cluster=slurm"], config_file=tmp_path / "law70b.yaml")


def test_eight_nodes_of_h100_for_70b_are_as_the_page_shows(law70b: RunConfig) -> None:
    assert render(law70b, python=PYTHON) == block("bash", first="#!/bin/bash")


def test_the_pages_settings_keep_all_rules(law70b: RunConfig) -> None:
    assert violations(law70b, launched=True) == []


def test_the_body_is_that_of_the_script_for_hand_use() -> None:
    by_hand = (ROOT / "launch" / "train.sbatch").read_text(encoding="utf-8")
    assert rendered().partition(BODY)[2] == by_hand.partition(BODY)[2] != ""


def test_settings_become_options() -> None:
    text = head(
        *("cluster.slurm.partition=gpu", "cluster.slurm.account=law", "cluster.slurm.qos=long"),
        *("cluster.slurm.reservation=r1", "cluster.slurm.constraint='h100&ib'"),
        *("cluster.slurm.dependency='afterok:7'", "cluster.slurm.spare_nodes=1"),
        *("cluster.slurm.extra='--mail-type=END --switches=1'", "cluster.slurm.exclusive=false"),
        *("cluster.slurm.requeue=false", "cluster.slurm.mem=400G", "cluster.slurm.time='30'"),
        *("cluster.slurm.signal_seconds=120", "cluster.gpus_per_node=8"),
    )
    assert [line for line in text.splitlines() if line.startswith("#SBATCH")] == [
        f"#SBATCH --{option}"
        for option in (
            *(f"job-name={job_name('/shared/runs/law')}", "dependency=afterok:7,singleton"),
            *("nodes=3", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=8", "mem=400G"),
            *("partition=gpu", "account=law", "qos=long", "reservation=r1", "constraint=h100&ib"),
            *("time=30", "signal=B:USR1@120", "no-requeue"),
            *("output=/shared/runs/law/logs/train.log", "open-mode=append"),
            *("mail-type=END", "switches=1"),
        )
    ]
    assert re.search(r"^nodes=2$", text, re.MULTILINE)
    assert re.search(r"^spares=1 ", text, re.MULTILINE)
    assert re.search(r"^requeue=no ", text, re.MULTILINE)


def test_an_array_needs_no_singleton_and_a_cpu_run_no_gpus() -> None:
    text = head("cluster.slurm.array='1-5%1'", "cluster.device=cpu")
    assert "--array=1-5%1" in text
    assert "singleton" not in text
    assert "gpus" not in text.replace("gpus_per_node", "")


@pytest.mark.parametrize(
    ("settings", "rank", "in_srun"),
    [
        ((), PYTHON, ""),
        (("cluster.slurm.python=/opt/python",), "/opt/python", ""),
        (
            (
                "cluster.slurm.container_image='nvcr.io#nvidia/pytorch:25.10-py3'",
                "cluster.slurm.container_mounts='/shared:/shared'",
            ),
            "python3",
            "'--container-image=nvcr.io#nvidia/pytorch:25.10-py3' "
            "--container-mounts=/shared:/shared",
        ),
        (
            (
                "cluster.slurm.container_runtime=apptainer",
                "cluster.slurm.container_image=/shared/images/megacpt.sif",
                "cluster.slurm.container_mounts='/shared,/scratch'",
                "cluster.slurm.python=python3.12",
            ),
            "apptainer exec --nv --bind=/shared,/scratch /shared/images/megacpt.sif python3.12",
            "",
        ),
    ],
)
def test_ranks_run_in_containers(settings: tuple[str, ...], rank: str, in_srun: str) -> None:
    text = head(*settings)
    assert re.search(rf"^rank=\({re.escape(rank)}\) ", text, re.MULTILINE), text
    assert re.search(rf"^in_srun=\({re.escape(in_srun)}\)$", text, re.MULTILINE), text


def test_modules_and_lines_of_the_users_come_first() -> None:
    text = head(
        "cluster.slurm.modules='cuda/12.8 nccl'",
        "cluster.slurm.setup='export NCCL_SOCKET_IFNAME=ib0\nulimit -c 0'",
    )
    lines = text.splitlines()
    at = lines.index("module load cuda/12.8 nccl")
    assert lines[at + 1 : at + 3] == ["export NCCL_SOCKET_IFNAME=ib0", "ulimit -c 0"]
    assert lines[at + 3].startswith(f"python={PYTHON} ")


def test_jobs_of_a_run_share_a_name_that_no_other_run_has() -> None:
    assert job_name("/a/law") == job_name("/a/law") != job_name("/b/law")
    assert re.fullmatch(r"law-[0-9a-f]{6}", job_name("/a/law"))


@pytest.mark.parametrize("run_dir", ["/shared/my runs/law", "/shared/%j", "/shared/$HOME"])
def test_a_folder_that_sbatch_would_misread_is_refused(run_dir: str) -> None:
    config = compose(TWO_NODES)
    config.run_dir = run_dir
    with pytest.raises(ConfigError, match=r"which sbatch or the shell reads as something else"):
        render(config, python=PYTHON)


@pytest.mark.parametrize("extra", ["'mail-type=END'", "'--comment=\"a'"])
def test_extra_lines_must_be_options(extra: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.slurm\.extra=.* which is no option; write"):
        rendered(f"cluster.slurm.extra={extra}")


def test_the_script_is_bash(tmp_path: Path, law70b: RunConfig) -> None:
    path = tmp_path / "train.sbatch"
    path.write_text(render(law70b, python=PYTHON))
    subprocess.run(["bash", "-n", path], check=True)
