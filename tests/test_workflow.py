"""The workflow as a whole: it plans for every configuration, and the smallest run goes through every rule."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from test_config import CONFIGS

PARTS = ("Snakefile", "config.yaml", "config", "workflow", "profiles", "envs", "src", "paper_tables", "tests")
TINY = ("--configfile", "tests/config/tiny.yaml")


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def planned(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Jobs by rule that a dry run names; empty if there is nothing to do."""
    assert result.returncode == 0, result.stderr[-3000:]
    output = result.stdout + result.stderr
    if "Nothing to be done" in output:
        return {}
    counts = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.M | re.S)
    assert counts, output[-3000:]
    return {name: int(n) for name, n in (line.split() for line in counts[1].splitlines())}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / part)
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_can_be_planned(checkout, config):
    jobs = planned(snakemake(checkout, "-n", "--configfile", str(config.relative_to(ROOT))))
    assert jobs["table"] == 2 and jobs["train"] >= 6


def test_the_default_run_has_the_jobs_that_its_grid_asks_for(checkout):
    jobs = planned(snakemake(checkout, "-n"))
    assert jobs["model"] == jobs["basis"] == 3
    assert jobs["select"] == 3 * 3 * 2 and jobs["generate"] == jobs["score"] == 3 * 3 * 3


def test_a_configuration_on_the_command_line_is_not_merged_with_the_default(checkout):
    assert "pocket-mistral" not in (result := snakemake(checkout, "-n", *TINY)).stdout + result.stderr


def test_a_mistake_in_the_configuration_ends_in_one_line_before_any_job(checkout):
    result = snakemake(checkout, "-n", *TINY, "--config", "generation_bach=3")
    assert result.returncode != 0
    assert "unknown key 'generation_bach'; did you mean 'generation_batch'?" in result.stdout + result.stderr


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_both_profiles_are_accepted(checkout, profile):
    assert planned(snakemake(checkout, "-n", *TINY, "--profile", f"profiles/{profile}"))["train"] == 9


def test_every_rule_names_its_environment_log_benchmark_and_resources(checkout):
    rules = re.split(
        r"^rule ", "\n".join(p.read_text() for p in (checkout / "workflow/rules").glob("*.smk")), flags=re.M
    )[1:]
    for rule in rules:
        for directive in ("conda:", "threads:", "log:", "benchmark:", "mem_mb=", "runtime=", "gpu=", "shell:"):
            assert directive in rule, f"rule {rule.split(':')[0]} has no {directive}"
        environment = re.search(r'"(../../envs/\w+\.yaml)"', rule)
        assert environment and (checkout / "workflow/rules" / environment[1]).is_file()


@pytest.mark.slow
def test_the_smallest_run_goes_through_every_rule_and_is_cached(checkout):
    run = snakemake(checkout, *TINY)
    assert run.returncode == 0, run.stderr[-5000:]
    results = checkout / "results" / "tiny"
    tables = results / "paper_tables"
    for document in ("arxiv", "workshop"):
        for extension in ("md", "tex", "html", "csv"):
            assert (tables / document / f"table1.{extension}").stat().st_size > 0
    assert "tiny-llama in place of" in (tables / "arxiv" / "table1.md").read_text()
    with gzip.open(results / "scores.csv.gz", "rt") as file:
        assert len(file.readlines()) == 1 + 9 * 12  # three tasks with the base model and two experts each
    assert planned(snakemake(checkout, "-n", *TINY)) == {}, "a second run does nothing"

    expert = results / "experts/tiny-llama/gsm8k/svf/seed0/adapter_model.safetensors"
    expert.unlink()
    only_that_branch = {"select": 1, "generate": 1, "score": 1, "collect_scores": 1, "table": 2, "figure": 4, "all": 1}
    assert planned(snakemake(checkout, "-n", *TINY)) == only_that_branch
    again = snakemake(checkout, *TINY)
    assert again.returncode == 0 and expert.exists(), again.stderr[-3000:]

    text = (checkout / "tests/config/tiny.yaml").read_text()
    (checkout / "tests/config/tiny.yaml").write_text(text.replace("[0.0, 0.1]", "[0.0, 0.2]"))
    jobs = planned(snakemake(checkout, "-n", *TINY))
    assert jobs["train"] == 3 and jobs["select"] == 3 and "model" not in jobs and "data" not in jobs
    assert jobs["generate"] == 3, "only SVF's answers are made again"
