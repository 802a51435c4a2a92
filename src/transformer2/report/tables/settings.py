"""A table of hyper-parameters: those that the paper prints beside those of a run's methods."""

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import pandas as pd

from transformer2.config import Method, Training
from transformer2.report import text
from transformer2.report.layout import Group, Page, TextCell, TextColumn, TextRow
from transformer2.reproduce.ledger import Setting, SettingsTable

SWEPT = (
    "Several values: all were tried, in every combination, and the best on validation is the expert, for each model "
    "and task. Without a verdict, ours are the paper's values."
)
START = (
    "Ours is the mean of the vector that is trained. Where that is z itself, 1 is the base model; at 0.1 every adapted "
    "matrix would start at a tenth of its size. The released code trains p with z = sigmoid(p) and starts p at 0.1."
)
"""Note on the initial mean (docs/choices.md has what 0.1 does)."""
OF_SVF = ("parametrisation", "init_mean", "init_std")
OF_LORA = ("rank", "lora_alpha", "lora_dropout")
OF_ADAPTER = {
    "svf": OF_SVF, "lora": OF_LORA, "dora": OF_LORA, "ia3": (), "vera": ("rank", "lora_dropout"),
    "tinylora": ("rank", "projection"),
}  # fmt: skip
"""Adapter -> the settings that not every adapter uses and that it uses (`models.new_expert`)."""
OF_REINFORCE = ("rollout", "answers", "reward", "reward_wrong", "kl_coefficient", "kl")
"""Settings that act with this objective alone."""


def table(table: SettingsTable, run: str, methods: Mapping[str, Method]) -> tuple[Page, pd.DataFrame]:
    """The page of a table of hyper-parameters by the methods of a run's configuration, and its values (`tidy`)."""
    others = [_others(table, name, methods[name]) for name in table.methods if name in methods]
    page = Page(
        table=table,
        run=run,
        unit="One value, or those that were tried",
        stub="Setting",
        columns=[TextColumn("Value", "paper and ours")],
        groups=[
            Group(table.methods[name], [_row(row, methods.get(name)) for row in rows])
            for name, rows in groupby(table.rows, key=lambda row: row.method)
        ],
        footnotes=[f"Run: {run}. {SWEPT}", *others],
        notes=[("a", START)] if any(row.setting == "init_mean" for row in table.rows) else [],
    )
    return page, tidy(table, run, methods)


def tidy(table: SettingsTable, run: str, methods: Mapping[str, Method]) -> pd.DataFrame:
    """One row a setting; `ours` is missing where the run has no such method."""
    records = []
    for row in table.rows:
        ours = values(methods[row.method], row.setting) if row.method in methods else None
        records.append({
            "document": table.document, "table": table.name, "run": run, "method": row.method, "label": row.label,
            "setting": row.setting, "reported": " ".join(map(text.setting, map(float, row.values))),
            "ours": None if ours is None else " ".join(map(text.setting, ours)),
            "same": None if ours is None else same(row, ours),
        })  # fmt: skip
    return pd.DataFrame(records)


def values(method: Method, setting: str) -> list[Any]:
    """All values of one setting over the points of a method's sweep, in the order of the sweep."""
    return list(dict.fromkeys(_value(point, setting) for point in method.points().values()))


def _value(training: Training, setting: str) -> Any:
    if setting == "init_variance":
        return training.init_std**2
    if setting == "init_mean" and training.init_mean is None:  # as svf.layer.SVFLayer.update_layer
        return 1.0 if training.parametrisation == "linear" else 0.1
    return getattr(training, setting)


def same(row: Setting, ours: list[float]) -> bool:
    """Whether ours are the values that the paper prints, in any order."""
    printed, own = sorted(map(float, row.values)), sorted(ours)
    return len(printed) == len(own) and all(map(math.isclose, printed, own))


def _row(row: Setting, method: Method | None) -> TextRow:
    lines = {"paper": ", ".join(map(text.setting, map(float, row.values)))}
    if method is None:
        lines |= {"ours": "not run"}
    else:
        ours = values(method, row.setting)
        lines |= {"ours": ", ".join(map(text.setting, ours))} | ({} if same(row, ours) else {"verdict": "differs"})
    return TextRow(row.label, [TextCell(lines)], mark="a" if row.setting == "init_mean" else "")


def _others(table: SettingsTable, name: str, method: Method) -> str:
    """A method's settings that the paper's table does not have."""
    first = next(iter(method.points().values()))
    left_out = unused_settings(first.adapter, first.objective) | {
        row.setting for row in table.rows if row.method == name
    }
    left_out |= {"init_std"} if "init_variance" in left_out else set()
    shown = [
        f"{key.replace('_', ' ')} {' or '.join(map(text.setting, values(method, key)))}"
        for key in Training.model_fields
        if key not in left_out
    ]
    return f"Settings of our method {name} that the paper's table does not have: {', '.join(shown)}."


def unused_settings(adapter: str, objective: str) -> set[str]:
    """Settings that do nothing in a training: those of other adapters, and of the other objective."""
    unused = {setting for settings in OF_ADAPTER.values() for setting in settings} - set(OF_ADAPTER[adapter])
    return unused | (set(OF_REINFORCE) if objective == "next_token" else set())
