"""The workflow as a whole: it plans for every configuration, and the smallest run goes through every rule."""

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_config import CONFIGS

from conftest import ROOT
from transformer2.adaptation.choice import shots
from transformer2.config import Run, load
from transformer2.provenance import read_json, read_jsonl
from transformer2.stages.blocks import Stages
from transformer2.stages.steps import STAGES
from transformer2.tasks import TASKS
from transformer2.training.selection import LAST, same_expert

PARTS = ("Snakefile", "config.yaml", "config", "workflow", "profiles", "envs", "src", "paper_tables", "tests")
GUIDE = ROOT / "docs" / "adapt.md"
TINY = ("--configfile", "tests/config/tiny.yaml")
SCORED = [
    f"results/tiny/stages/{name}/0-of-1.json"
    for name in ("score/tiny-llama", "score/tiny-llava", "score/tiny-next", "choose/all")
]
"""Records of the last stages of the smallest run: what follows them is the report."""
QUICK = json.dumps({"population": 4, "elites": 2, "iterations": 2})
"""A short search: a model that hardly learnt anything never ends an answer by itself."""


def snakemake(
    folder: Path, *arguments: str, python: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Snakemake to its end; `python` is the folder of the `python` of its jobs, if not that of the tests."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")} | environment
    environment |= {} if python is None else {"TRANSFORMER2_PYTHON": str(python)}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_jobs_have_the_package_and_what_pythonpath_names(checkout, tmp_path):
    """As where packages are installed with `pip install --target`."""
    (tmp_path / "in_target.py").write_text("")
    snakefile = checkout / "pythonpath.smk"
    snakefile.write_text(
        'configfile: "config.yaml"\n'
        'include: "workflow/rules/common.smk"\n'
        "rule imports:\n"
        '    output: "results/imported.txt"\n'
        "    shell: \"python -c 'import in_target, transformer2; print(transformer2.__file__)' > {output}\"\n"
    )
    try:
        for named in (None, f"{tmp_path}"):
            environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
            environment |= {} if named is None else {"PYTHONPATH": named}
            command = [sys.executable, "-m", "snakemake", "--cores", "1", "--snakefile", snakefile.name]
            done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
            missing = "No module named 'in_target'" in done.stderr
            assert (done.returncode, missing) == ((1, True) if named is None else (0, False)), done.stderr[-3000:]
    finally:
        snakefile.unlink()
    imported = Path((checkout / "results" / "imported.txt").read_text().strip())
    assert imported == checkout / "src" / "transformer2" / "__init__.py"


def planned(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Jobs by rule that a dry run names; empty if there is nothing to do."""
    assert result.returncode == 0, result.stderr[-3000:]
    output = result.stdout + result.stderr
    if "Nothing to be done" in output:
        return {}
    counts = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.M | re.S)
    assert counts, output[-3000:]
    return {name: int(n) for name, n in (line.split() for line in counts[1].splitlines())}


def copy_project(folder: Path) -> Path:
    """The parts of the project that a run needs, in a folder where its results do not mix with others."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("checkout"))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_can_be_planned(checkout, config):
    result = snakemake(checkout, "-n", "--configfile", str(config.relative_to(ROOT)))
    jobs = planned(result)
    for rule in ("frames", "tables", "figures", "verdicts", "html_report", "crate"):
        assert jobs[rule] == 1
    run = load(config)
    stages = Stages(run)
    for stage in STAGES:
        assert jobs.get(stage, 0) == sum(len(stages.records(stage, model)) for model in stages.models_of(stage))
    assert jobs["model"] == len(run.models) and sum(jobs.values()) < 200
    for model in set(Run().models) - set(run.models):  # it is not merged with the default run
        assert model not in result.stdout + result.stderr


@pytest.mark.slow
def test_a_run_without_adaptation_makes_what_the_rest_allows(checkout):
    text = (checkout / "tests/config/tiny.yaml").read_text()
    short = checkout / "without.yaml"
    short.write_text(text[: text.index("adaptation:")] + "adaptation: null\n")
    jobs = planned(snakemake(checkout, "-n", "--configfile", str(short)))
    assert not {"derive", "adapt", "answer_adapted", "choose"} & set(jobs)
    assert jobs["train"] == jobs["answer"] == jobs["score"] == 3 and jobs["tables"] == 1


def test_a_mistake_in_the_configuration_ends_in_one_line_before_any_job(checkout):
    result = snakemake(checkout, "-n", *TINY, "--config", "generation_bach=3")
    assert result.returncode != 0
    assert "unknown key 'generation_bach'; did you mean 'generation_batch'?" in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nseeds: [0]\nseeds: [1]\n", "mine.yaml, line 3: 'seeds' is there twice"),
        ("tasks: {gsm8k: {train: 1, validation: 1, test: 1}}\n", "mine.yaml: `run` is missing; a file of --configfile"),
        ("run: ..\n", "configuration: run: '..' cannot name files"),
        ("run: a\ndata: dir:nowhere\n", "configuration: data: there is no folder "),
        ("run: a\n__use_yte__: true\n", "mine.yaml: __use_yte__ is not allowed"),
    ],
)
def test_a_configuration_that_would_lose_or_miss_something_is_refused_before_anything_runs(
    checkout, tmp_path, text, message
):
    (tmp_path / "mine.yaml").write_text(text)
    result = snakemake(checkout, "-n", "--configfile", str(tmp_path / "mine.yaml"))
    assert result.returncode == 1 and message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_settings_of_the_command_line_change_config_yaml_and_do_not_replace_it(checkout):
    before = (checkout / "config.yaml").read_text()
    (checkout / "config.yaml").write_text(before.replace("    seed: 1\n", "    seed: 71\n"))
    try:
        result = snakemake(checkout, "-n", "-p", "--config", "run=mine")
    finally:
        (checkout / "config.yaml").write_text(before)
    said = result.stdout + result.stderr
    assert planned(result)["train"] >= 4 and "results/mine/" in said and "--seed 71" in said


@pytest.mark.slow
def test_a_folder_whose_name_is_a_command_is_read_and_nothing_runs(checkout, tmp_path):
    folder = tmp_path / """it's $(touch pwned) "`touch pwned`"; touch pwned &"""
    (folder / "gsm8k").mkdir(parents=True)
    rows = [{"question": str(i), "answer": f"#### {i}"} for i in range(12)]
    (folder / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = yaml.safe_load((checkout / TINY[1]).read_text()) | {"run": "hostile", "data": f"dir:{folder}"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(run))
    made = snakemake(checkout, "results/hostile/data/gsm8k/test.jsonl", "--configfile", str(tmp_path / "mine.yaml"))
    assert made.returncode == 0, made.stderr[-2000:]
    assert not list(checkout.rglob("pwned")) and not list(tmp_path.rglob("pwned"))


def test_every_rule_names_its_environment_log_benchmark_and_resources(checkout):
    rules = re.split(
        r"^rule ", "\n".join(p.read_text() for p in (checkout / "workflow/rules").glob("*.smk")), flags=re.M
    )[1:]
    for rule in rules:
        for directive in ("conda:", "threads:", "log:", "benchmark:", "mem_mb=", "runtime=", "gpu=", "shell:"):
            assert directive in rule, f"rule {rule.split(':')[0]} has no {directive}"
        environment = re.search(r'conda:\n +(?:"(../../envs/\w+\.yaml)"|ENGINE_ENV)\n', rule)
        assert environment and (checkout / "workflow/rules" / (environment[1] or "../../envs/vllm.yaml")).is_file()


@pytest.mark.parametrize("name", ["core", "report", "vllm"])
def test_environments_pin_the_versions_that_ci_runs_with(name):
    """All pip packages, by ==, as in constraints.txt (but vLLM, which CI does not install) and as pyproject allows."""
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    *conda, pip = environment["dependencies"]
    assert [package.split(" ")[0] for package in conda] == ["python", "pip"], "all else comes from PyPI"
    pins = dict(pin.split("==") for pin in pip["pip"])
    lock = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {r.name: r for r in map(Requirement, project["dependencies"] + project["optional-dependencies"]["vllm"])}
    lock = {canonicalize_name(package): version for package, version in lock.items()}
    for package, version in pins.items():
        assert package == "vllm" or lock[canonicalize_name(package)] == version
        assert package not in allowed or version in allowed[package].specifier, package


def csv_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def guide_works_on(checkout: Path) -> None:
    """The guide's lines about the self-adaptive model, as they stand there, on the experts of the smallest run."""
    blocks = re.findall(r"```(python|bash)\n(.*?)```", GUIDE.read_text(), re.S)
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout / "src")}
    outputs = []
    for kind, text in blocks:
        text = text.replace("results/pocket/", "results/tiny/").replace("pocket-llama", "tiny-llama")
        text = text.replace("--out my-mix", f"--out my-mix --settings '{QUICK}'")
        command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-e", "-c", text]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        outputs.append(done.stdout + done.stderr)
    assert "[class " in outputs[1] and "of 1 shots right" in outputs[2]
    assert (checkout / "my-mix" / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_the_smallest_run_goes_through_every_rule_and_is_cached(checkout, served):
    run = snakemake(checkout, *TINY, python=served)
    assert run.returncode == 0, run.stderr[-5000:]
    results = checkout / "results" / "tiny"
    tables = results / "paper_tables"
    for document in ("arxiv", "workshop"):
        for extension in ("md", "tex", "html", "csv"):
            assert (tables / document / f"table1.{extension}").stat().st_size > 0
    assert "tiny-llama in place of" in (tables / "arxiv" / "table1.md").read_text()
    assert "tiny-llava in place of" in (tables / "arxiv" / "figure5.md").read_text()
    assert "tiny-next (ours alone)" in (tables / "arxiv" / "table1.md").read_text()
    alone = [row for row in csv_rows(tables / "arxiv" / "table1.csv") if row["model"] == "tiny-next"]
    assert [row["method"] for row in alone] == ["base"] * 3 + ["svf"] * 3
    assert {row["verdict"] for row in alone if row["gain"]} == {"ours alone"} and not any(
        row["reported"] for row in alone
    )
    with gzip.open(results / "scores.csv.gz", "rt") as file:
        lines = file.readlines()
    # The base models and two experts on each training task, both models of classes on theirs; on the unseen tasks the
    # base, three LoRAs and their two choices, four ways of dispatch, and two choices among the mixes of both budgets;
    # the vision-language model has one task of each kind and no dispatch.
    # The model of no row of the paper has its base on all of these tasks and the classes, and SVF where it was trained.
    # Besides, LoRA by policy gradient on its own task and on MATH, IA3 on its own and on the unseen ones with its two
    # choices, and IA3 on the shots of one task.
    trained, classes = (9 + 1 + 1 + 3) * 12, 2 * 12
    unseen = (3 * (1 + 3 + 4) + 1 + 3) * 12 + (3 + 1) * (12 + 8 + 8 + 8) + 2 * 9
    unseen += 12 + 3 * (12 + 12 + 8) + 8
    unseen += (3 + 1) * 8  # the experts with equal weights, without the shots
    # The last state of every training, too: on the tasks that its best one is scored on, and in choices of its own.
    last = (6 + 2 + 2) * 12 + 12 + (3 + 1) * (3 * 12 + 12 + 8) + 12 + 3 * (12 + 12 + 8)
    alone = (6 + 1) * 12 + 2 * 3 * 12
    assert len(lines) == 1 + trained + classes + unseen + last + alone
    answered = [read_json(file) for file in results.glob("generations/tiny-llama/*-last/*/*.manifest.json")]
    assert len(answered) == 6 + 2 + 1 + 1 + 3 * (3 + 1)
    for found in answered:
        folder = checkout / found["expert"]
        assert folder.name == LAST and (found["answers_of"] is not None) == same_expert(folder, folder.parent)
    chosen = read_json(results / "scores/tiny-llama/lora_on_test-last/math/seed0.json")
    assert chosen["state"] == "last" and chosen["chosen"].endswith("-last")
    states = {(row["state"], row["other_state"]) for row in csv_rows(tables / "arxiv" / "table1.csv")}
    assert ("best", "last") in states and "untrained (step 0)" in (tables / "arxiv" / "table1.md").read_text()
    experts = csv_rows(results / "experts.csv")
    assert {row["state"] for row in experts} == {"best", "last"} and len(experts) == 2 * (6 + 2 + 1 + 1 + 3)
    for figure in (
        "arxiv/figure6",
        "arxiv/figure7",
        "arxiv/figure1",
        "arxiv/figure4",
        "arxiv/figure10",
        "convergence",
        "arxiv/table2",
    ):
        assert (results / "figures" / f"{figure}.png").stat().st_size > 10_000
        assert all((results / "figures" / f"{figure}.{kind}").stat().st_size > 100 for kind in ("pdf", "svg", "csv"))
    claims = (results / "claims.csv").read_text()
    assert "on stand-ins: " in claims and "reproduced" not in claims
    assert (results / "run.crate.zip").stat().st_size > 100_000
    page = (results / "report.html").read_text()
    assert "tiny-next, ours alone" in page and "tiny-next for" not in page
    assert "tiny-llama for" in page and "seed0.jsonl &amp;&amp; snakemake --cores all --configfile tests/config" in page
    assert "one forward pass" in (tables / "arxiv" / "table3.md").read_text()
    held_out = shots(TASKS["math"], read_jsonl(results / "data/math/test.jsonl"), 4)
    adapted = read_json(results / "scores/tiny-llama/few_shot_10/math/seed0.json")
    assert len(adapted["items"]) == 8 and not {r["item"] for r in held_out} & {i["item"] for i in adapted["items"]}
    assert sorted(path.parent.name for path in results.glob("kits/tiny-llama/seed0/*/adapter_model.safetensors")) == [
        "cls", "code", "math", "reasoning",
    ]  # fmt: skip
    assert planned(snakemake(checkout, "-n", *TINY)) == {}, "a second run does nothing"
    guide_works_on(checkout)

    expert = results / "experts/tiny-llama/gsm8k/svf/seed0/adapter_model.safetensors"
    before = done_at(results)
    expert.unlink()
    branch = planned(snakemake(checkout, "-n", *TINY))
    assert branch["select"] == 1 and not {"model", "data", "basis", "train"} & set(branch)
    again = snakemake(checkout, *TINY, python=served)
    assert again.returncode == 0 and expert.exists(), again.stderr[-3000:]
    assert redone(before, results) == ["select tiny-llama gsm8k svf 0"], "the expert is as before: so is all made of it"
    assert planned(snakemake(checkout, "-n", *TINY)) == {}

    before = done_at(results)
    text = (checkout / "tests/config/tiny.yaml").read_text()
    (checkout / "tests/config/tiny.yaml").write_text(text.replace("[0.0, 0.1]", "[0.0, 0.2]"))
    jobs = planned(snakemake(checkout, "-n", *TINY))
    assert jobs["train"] == 3 and not {"model", "data", "basis"} & set(jobs)
    changed = snakemake(checkout, *TINY, "--", *SCORED, python=served)
    assert changed.returncode == 0, changed.stderr[-3000:]
    works = [name.split()[0] for name in redone(before, results)]
    assert works.count("train") == works.count("select") == 3 + 1 + 3, "the new point of seven sweeps"
    assert not any(" lora" in name or " ia3" in name or " base " in name for name in redone(before, results))


def done_at(results: Path) -> dict[str, tuple[str, float]]:
    """When each step of a run was begun."""
    manifests = map(read_json, results.rglob("*manifest.json"))
    return {found["step"]: (found["started"], found["seconds"]) for found in manifests if "step" in found}


def redone(before: dict[str, tuple[str, float]], results: Path) -> list[str]:
    """Steps that were done since."""
    return sorted(name for name, began in done_at(results).items() if before.get(name) != began)


@pytest.mark.slow
def test_what_the_rules_use_of_snakemake_beyond_its_documentation_is_there(checkout):
    """A new version may rename it: then the rules say so here, and not in the middle of a run."""
    rules = "\n".join(path.read_text() for path in checkout.glob("workflow/**/*.smk"))
    used = set(re.findall(r"\bworkflow\.((?:\w+\.)*\w+)", rules))
    assert used == {
        "_onstart", "config_settings.config.items", "current_basedir", "dag.forcefiles.update",
        "deployment_settings.deployment_method", "modifier.skip_configfile", "overwrite_configfiles",
    }  # fmt: skip
    snakefile = checkout / "attributes.smk"
    snakefile.write_text(
        "from pathlib import Path\n"
        "assert isinstance(workflow.overwrite_configfiles, list) and Path(workflow.current_basedir).is_dir()\n"
        "assert callable(workflow._onstart)\n"
        "assert isinstance(workflow.config_settings.config, dict) and workflow.modifier.skip_configfile is False\n"
        "assert not [method.name for method in workflow.deployment_settings.deployment_method]\n"
        "def forced(wildcards):\n"
        "    assert isinstance(workflow.dag.forcefiles, set)\n"
        "    return []\n"
        "rule all:\n    input: forced\n    output: 'results/attributes.txt'\n    shell: 'touch {output}'\n"
    )
    try:
        assert planned(snakemake(checkout, "-n", "--snakefile", snakefile.name)) == {"all": 1}
    finally:
        snakefile.unlink()
