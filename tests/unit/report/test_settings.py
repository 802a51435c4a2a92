"""The table of hyper-parameters: the document's beside those of a run, with what differs."""

import shutil
import subprocess

import pandas as pd
import pytest

import helpers
from conftest import ROOT
from helpers import model
from rendering import render_settings
from transformer2.config import Method, Run, Training
from transformer2.models import new_expert
from transformer2.report.tables.settings import unused_settings, values
from transformer2.report.text import setting
from transformer2.reproduce import ledger

FILES = {"arxiv": ROOT / "paper_tables/arxiv/table6.yaml", "workshop": ROOT / "paper_tables/workshop/table4.yaml"}
PAPER = {
    "svf": Method(sweep={"kl_coefficient": [0.3, 0.0, 0.1, 0.2]}, settings={"init_mean": 0.1}),
    "lora": Method(
        recipe="paper-lora",
        sweep={"learning_rate": [2e-4, 5e-4, 2e-5, 5e-5, 2e-6, 5e-6], "clip_norm": [1e-3, 1.0]},
    ),
}
"""All that Table 6 says, to the letter."""


def table(methods: dict[str, Method], tmp_path, document: str = "arxiv") -> pd.DataFrame:
    *_, csv = render_settings(FILES[document], "toy", methods, tmp_path)
    return pd.read_csv(csv).set_index(["method", "setting"])


def test_the_recipes_say_what_the_documents_table_says(tmp_path):
    frame = table(PAPER, tmp_path)
    assert frame["same"].all() and len(frame) == 12
    recipes = {"svf": Method(), "lora": Method(recipe="paper-lora")}
    differs = table(recipes, tmp_path).query("not same").index.tolist()
    assert differs == [
        ("svf", "init_mean"),
        ("svf", "kl_coefficient"),
        ("lora", "learning_rate"),
        ("lora", "clip_norm"),
    ]


def test_both_documents_agree_but_for_the_learning_rates_of_lora(tmp_path):
    frame = table(PAPER, tmp_path, "workshop")
    assert frame.query("not same").index.tolist() == [("lora", "learning_rate")]


def test_a_difference_shows_with_every_value_of_a_sweep(tmp_path):
    frame = table(Run().methods, tmp_path)
    assert frame.loc[("svf", "learning_rate"), ["reported", "ours", "same"]].tolist() == ["2e-3", "0.02 0.05", False]
    assert frame.loc[("svf", "kl_coefficient"), ["reported", "ours"]].tolist() == ["0 0.1 0.2 0.3", "0"]
    text = (tmp_path / "arxiv/table6.md").read_text(encoding="utf-8")
    assert "| Learning rate | paper 2e-3<br>ours **0.02, 0.05**<br>verdict differs |" in text
    assert "| KL coefficient λ | paper 0, 0.1, 0.2, 0.3<br>ours **0**<br>verdict differs |" in text
    assert "method svf that the paper's table does not have: adapter svf, objective policy gradient" in text
    assert "lora dropout" not in text.split("method svf that")[1].split("method lora that")[0]


def test_a_method_that_the_run_has_not_is_not_run(tmp_path):
    frame = table({"svf": Method()}, tmp_path)
    assert frame.loc["lora"]["ours"].isna().all() and frame.loc["svf"]["ours"].notna().all()
    assert (tmp_path / "arxiv/table6.md").read_text(encoding="utf-8").count("ours **not run**") == 6


@pytest.mark.parametrize(
    ("settings", "setting", "expected"),
    [({}, "init_mean", [1.0]), ({"init_mean": 0.1}, "init_mean", [0.1]),
     ({"parametrisation": "sigmoid_nuclear"}, "init_mean", [0.1]), ({"init_std": 0.0}, "init_variance", [0.0]),
     ({}, "init_variance", [pytest.approx(1e-3)])],
)  # fmt: skip
def test_a_setting_is_what_the_training_starts_with(settings, setting, expected):
    assert values(Method(settings=settings), setting) == expected


def test_numbers_look_as_in_the_ledger():
    shown = [setting(value) for value in (2e-3, 5e-6, (1e-3**0.5) ** 2, 0.05, 256, 0.0, 1.0)]
    assert shown == ["2e-3", "5e-6", "1e-3", "0.05", "256", "0", "1"]


def test_every_setting_of_the_ledger_is_one_of_ours(tmp_path):
    for file in FILES.values():
        assert {row.setting for row in ledger.read_settings(file).rows} <= {*Training.model_fields, "init_variance"}
    text = FILES["workshop"].read_text(encoding="utf-8")
    (tmp_path / "table4.yaml").write_text(text.replace("setting: rank", "setting: rang"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"row Rank: unknown setting 'rang'; did you mean 'rank'\?"):
        ledger.read_settings(tmp_path / "table4.yaml")


def test_latex_fits_the_page(tmp_path):
    if not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("no TeX with booktabs.sty here")
    for document in FILES:
        render_settings(FILES[document], "toy", PAPER, tmp_path)
    preamble = r"\documentclass{article}\usepackage{booktabs,longtable}\setlength{\textwidth}{5.5in}"
    inputs = r"\input{arxiv/table6.tex}\input{workshop/table4.tex}"
    (tmp_path / "main.tex").write_text(preamble + r"\begin{document}" + inputs + r"\end{document}")
    subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, check=True, capture_output=True)
    log = (tmp_path / "main.log").read_text(encoding="latin-1")
    assert "Overfull" not in log and "Float too large" not in log


@pytest.mark.parametrize("adapter", ["svf", "lora", "dora", "ia3", "vera", "tinylora"])
def test_the_settings_of_an_adapter_are_those_that_change_it(adapter):
    def built(**changes) -> dict:
        modules = "ia3" if adapter == "ia3" else "attention_qv"
        expert = new_expert(model(300), helpers.settings(adapter=adapter, modules=modules, **changes), None, 0)
        return expert.peft_config["default"].to_dict()

    others = {
        "parametrisation": "sigmoid_nuclear", "init_mean": 0.5, "init_std": 0.2, "rank": 2, "lora_alpha": 5,
        "lora_dropout": 0.3, "projection": 7,
    }  # fmt: skip
    plain = built()
    without_effect = {name for name, value in others.items() if built(**{name: value}) == plain}
    assert unused_settings(adapter, "policy_gradient") == without_effect


def test_what_rewards_answers_is_no_setting_of_next_token_training():
    more = unused_settings("lora", "next_token") - unused_settings("lora", "policy_gradient")
    assert more == {"rollout", "answers", "reward", "reward_wrong", "kl_coefficient", "kl"}
