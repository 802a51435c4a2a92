"""What a configuration must not hold: numbers out of range, names that escape or are taken, keys that get lost."""

import json
import math
import re
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from test_config import CONFIGS
from typer.testing import CliRunner

from conftest import ROOT
from transformer2.cli import app
from transformer2.config import (
    CEM,
    CONFIGURATIONS,
    CROSS,
    STRATEGIES,
    Adaptation,
    Budget,
    ConfigError,
    Method,
    Model,
    Run,
    Search,
    TaskData,
    Training,
    Transfer,
    check_folders,
    load,
    parse,
    read_yaml,
)
from transformer2.config.names import PAPER_LAYERS, POCKET_LAYERS, reserved

SECTIONS = (Training, Model, Transfer, CEM, Search, Budget, TaskData, Adaptation, Run)


def numbers(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of the numbers that a value may be, or a list of."""
    inner = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    own = [schema] if schema.get("type") in ("integer", "number") else []
    return own + [number for part in inner for number in numbers(part)]


FIELDS = {
    f"{section.__name__}.{name}": (section.model_fields[name], numbers(schema)[0])
    for section in SECTIONS
    for name, schema in section.model_json_schema()["properties"].items()
    if numbers(schema)
}


def reader(name: str) -> TypeAdapter:
    """Reads the value of one field as its section does."""
    field = FIELDS[name][0]
    return TypeAdapter(Annotated[field.annotation, field])  # pyright: ignore


def within(value: float, schema: dict[str, Any]) -> bool:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    whole = schema["type"] == "number" or float(value).is_integer()
    return low <= value <= high and above < value < below and whole


@pytest.mark.parametrize("value", [-1, 0, 1, 0.5, 1.5, 10**30, 1e30, -1e30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FIELDS)
def test_a_number_is_taken_where_the_schema_says_so_and_refused_elsewhere(name, value):
    kind, schema = reader(name), FIELDS[name][1]
    given = [value] if name == "Run.seeds" else value
    try:
        kind.validate_python(given)
        taken = True
    except ValidationError:
        taken = False
    assert taken == (math.isfinite(value) and within(value, schema)), f"{name}: {value}"


@pytest.mark.parametrize("name", FIELDS)
def test_every_number_has_both_limits_and_a_truth_or_a_word_is_none(name):
    kind, schema = reader(name), FIELDS[name][1]
    assert schema.keys() & {"minimum", "exclusiveMinimum"} and schema.keys() & {"maximum", "exclusiveMaximum"}, schema
    for value in (True, False, "one", "", "nan", "inf", "1e400", [1.5], {"a": 1}):
        with pytest.raises(ValidationError):
            kind.validate_python([value] if name == "Run.seeds" else value)


def test_the_numbers_of_the_schema_are_all_there():
    assert len(FIELDS) >= 45
    assert {"Training.steps", "Model.mem_mb", "Transfer.shuffles", "TaskData.train", "Run.seeds"} <= FIELDS.keys()


def run_named(name: str) -> dict:
    return {"run": name}


def model_named(name: str) -> dict:
    return {"models": {name: {"source": "pocket:llama", "row": "llama3-8b"}}}


def method_named(name: str) -> dict:
    return {"methods": {name: {}}}


def budget_named(name: str) -> dict:
    adaptation = Run().model_dump()["adaptation"]
    return {"adaptation": adaptation | {"budgets": adaptation["budgets"] | {name: {"shots": 2}}}}


def shots_method_named(name: str) -> dict:
    adaptation = Run().model_dump()["adaptation"]
    return {"adaptation": adaptation | {"trained": {name: {}}}}


NAMED = (run_named, model_named, method_named, budget_named, shots_method_named)


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", "--help", "a.", "a/b", "/etc", "../x", "a b", " a", "a\nb", "a\x00b",
     "$(touch x)", "`id`", "a;ls", "{run}", "<script>", "*", "é", "٣", "a" * 65, "a" * 1000],
)  # fmt: skip
def test_a_name_that_could_escape_is_refused_in_one_line(named, name):
    with pytest.raises(ConfigError) as error:
        parse(named(name))
    said = str(error.value)
    assert "\n" not in said and len(said) < 400
    assert "cannot name files" in said or "characters; names have at most 64" in said


@pytest.mark.parametrize("named", NAMED[2:])
@pytest.mark.parametrize(
    "name",
    ["base", "uniform", "uniform_mix", "classify", "few_shot_10", "few_shot_10-vector", "lora_on_test", "lora_on_shots",
     "svf_last", "svf-last", "x_labels", "svf_from_llama3-8b", "svf_from_llama3-8b_shuffled",
     "ia3_100_10-all", CROSS, *STRATEGIES, *CONFIGURATIONS],
)  # fmt: skip
def test_a_name_that_the_workflow_gives_is_refused_in_one_line(named, name):
    assert reserved(name)
    with pytest.raises(ConfigError) as error:
        parse(named(name))
    assert f"{name}: {name!r} is a name of {reserved(name)}; choose another one" in str(error.value)


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("name", ["a", "A-1_b.c", "007", "x" * 64, "none", "init_mean_0.1", "kl_off"])
def test_an_ordinary_name_is_taken(named, name):
    alone = model_named("m") | {"adaptation": None, "tasks": {"gsm8k": {"train": 1, "validation": 1, "test": 1}}}
    assert parse((alone if named in (model_named, method_named) else {}) | named(name)).run


def test_two_names_made_from_others_do_not_meet():
    adaptation = Run().model_dump()["adaptation"]
    budgets = adaptation["budgets"] | {"b": {"shots": 2}, "a_b": {"shots": 2}}
    with pytest.raises(
        ConfigError, match="adaptation.trained.x_a with budget b: x_a_b is a name of adaptation.trained.x"
    ):
        parse({"adaptation": adaptation | {"budgets": budgets, "trained": {"x": {}, "x_a": {}}}})


LLAMA = {"source": "pocket:llama", "row": "llama3-8b"}
HUB = {"source": "hub:a/b", "row": "llama3-8b"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"run": "models"}, "run: results/models is the folder of all base models; choose another name"),
        ({"run": 7}, "run: must be text; write it in quotes (got 7)"),
        ({"seeds": [0, 0]}, "seeds: 0 is there twice"),
        ({"seeds": [True]}, "seeds[0]: must be a number (got True)"),
        ({"seeds": []}, "seeds: must have at least 1 item"),
        ({"data": "pockett"}, "data: 'pockett' is not pocket, hub or dir:<folder>; did you mean 'pocket'?"),
        ({"data": "dir:{run}"}, "data: '{run}' is no path for Snakemake"),
        ({"data": "dir:-x"}, "data: '-x' is no path for Snakemake"),
        ({"scores": "{x}.json"}, "scores: '{x}.json' is no path for Snakemake"),
        ({"models": {"m": LLAMA | {"source": "pocket:lama"}}}, "models.m.source: unknown pocket model 'lama'; did"),
        ({"models": {"m": LLAMA | {"source": "floppy:x"}}}, "models.m.source: 'floppy:x' is not pocket:<architecture>"),
        ({"models": {"m": LLAMA | {"source": "hubb:x/y"}}}, "did you mean 'hub:'?"),
        ({"models": {"m": LLAMA | {"source": "hub:../../x"}}}, "models.m.source: '../../x' is no id of the hub"),
        ({"models": {"m": LLAMA | {"source": "wheel:--index-url=http://x==1"}}}, "is no <package>==<version>"),
        ({"models": {"m": LLAMA | {"source": "wheel:https://x/y.whl"}}}, "is no <package>==<version>"),
        ({"models": {"m": HUB | {"revision": "$(touch x)"}}}, "models.m.revision: '$(touch x)' is no commit"),
        ({"models": {"m": HUB | {"revision": "-x"}}}, "models.m.revision: '-x' is no commit, branch or tag"),
        ({"models": {"m": LLAMA | {"revision": "main"}}}, "models.m.revision: only a model of the hub has one"),
        ({"models": {"m": HUB | {"pretraining_steps": 3}}}, "models.m.pretraining_steps: only a pocket model is"),
        ({"models": {"m": LLAMA | {"basis_blocks": 99}}}, "models.m.basis_blocks: 99 blocks of 2 layers"),
        ({"models": {"m": LLAMA | {"dtype": "float23"}}}, "(got 'float23'); did you mean 'float32'?"),
        ({"tasks": {"gsm8k": {"train": 0}}}, "tasks.gsm8k.train: must be greater than or equal to 1 (got 0)"),
        ({"tasks": {"gsm8k": {}, "textvqa": {}}}, "tasks.gsm8k.train: missing; pocket data has no end"),
        ({"methods": {"m": {"settings": {"lora_dropout": 1.5}}}}, "methods.m.settings.lora_dropout: must be less"),
        ({"methods": {"m": {"settings": {"stesp": 3}}}}, "methods.m.settings: unknown training setting 'stesp'"),
        ({"methods": {"m": {"sweep": {"rank": [1, 1]}}}}, "methods.m.sweep: rank has 1 twice"),
        ({"methods": {"m": {"sweep": {"rank": [1, 0]}}}}, "methods.m.sweep.rank: must be greater than or equal"),
        ({"methods": {"m": {"settings": {"rank": 1}, "sweep": {"rank": [2]}}}}, "methods.m.sweep.rank: is a fixed"),
        (
            {"methods": {"m": {"sweep": {"rank": [*range(1, 99)], "steps": [*range(1, 99)]}}}},
            "methods.m.sweep: 9604 combinations; at most 1000 are trained",
        ),
        ({"methods": {"m": {"rows": []}}}, "methods.m.rows: must have at least 1 item (got [])"),
        ({"methods": {"m": [1]}}, "methods.m: must be a mapping (got [1])"),
        ({"adaptation": {"classifier": {"tasks": ["gsm8k"]}, "prompts": {}}}, "adaptation.classifier.tasks: is for"),
        ({"adaptation": {"classifier": {}, "prompts": {}, "budgets": {10: {"shots": 1}}}}, "in quotes (got 10)"),
        ([1], "must be a mapping (got [1])"),
        (None, "must be a mapping (got None)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(raw, message):
    with pytest.raises(ConfigError) as error:
        parse(raw)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_line_stays_short_whatever_the_value_is():
    endless: list[Any] = []
    endless.append(endless)
    for value in ("x" * 10**6, ["x" * 10**6] * 100, endless, 10**4000, {"a" * 10**5: 1}):
        with pytest.raises(ConfigError) as error:
            parse({"seeds": value, "models": value, "run": value, "adaptation": value, "nonsense" * 100: value})
        assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_numbers_of_the_command_line_are_text():
    run = parse({"seeds": ["0", "1"], "generation_batch": "20", "allow_unsandboxed_code": "true"})
    assert (run.seeds, run.generation_batch, run.allow_unsandboxed_code) == ([0, 1], 20, True)
    points = Method(settings={"learning_rate": "1e-4"}, sweep={"clip_norm": [1, "1e-3"]}).points()
    assert {slug: point.learning_rate for slug, point in points.items()} == {
        "clip_norm-1.0": 1e-4,
        "clip_norm-0.001": 1e-4,
    }


# ---- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nseeds: [0]\nrun: b\n", "line 3: 'run' is there twice"),
        ("run: a\nmethods:\n  svf:\n    settings: {steps: 1, steps: 2}\n", "line 4: 'steps' is there twice"),
        ("run: a\nmodels: {}\n\nmodels: {}\n", "line 4: 'models' is there twice"),
        ("run: a\nx: &x {a: 1}\ny: {<<: *x, <<: *x}\n", "line 3: '<<' is there twice"),
        ("run: a\n  b: 1\n", "line 2: mapping values are not allowed here"),
        ("run: a\nx:\n\ty: 1\n", "line 3: found character '\\t' that cannot start any token"),
        ("run: a\nx: *nowhere\n", "line 2: found undefined alias 'nowhere'"),
        ("run: !!python/object/apply:os.system [touch x]\n", "line 1: could not determine a constructor for the tag"),
        ("run: a\n---\nrun: b\n", "line 2: but found another document"),
        ("- run\n", " holds no mapping of settings (got ['run'])"),
        ("", " holds no mapping of settings (got None)"),
        ("[" * 5000, " is nested too deeply"),
        ("when: 2026-13-45\n", " is not YAML: month must be in 1..12"),
        ("__use_yte__: true\nrun: a\n", ": __use_yte__ is not allowed; Snakemake would run"),
        ("tasks: {}\n", ": `run` is missing; a file of --configfile stands alone"),
        ("run: a\nrnu: b\n", ": rnu: unknown key 'rnu'; did you mean 'run'?"),
    ],
)  # fmt: skip
def test_a_file_that_would_lose_something_is_one_line_with_its_place(tmp_path, text, message):
    (path := tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(str(path)) and message in said and "\n" not in said


def test_a_file_that_is_no_text_or_no_file_is_one_line(tmp_path):
    (path := tmp_path / "mine.yaml").write_bytes(b"run: \xff\xfe")
    with pytest.raises(ConfigError, match="mine.yaml is not UTF-8: byte 5 is 0xff"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_merged_key_may_be_replaced(tmp_path):
    (path := tmp_path / "mine.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a, y: 4}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 4}}


def test_folders_that_are_not_there_are_found_when_the_configuration_is_read(tmp_path):
    (tmp_path / "my-data").mkdir()
    with pytest.raises(ConfigError, match=f"data: there is no folder {tmp_path}/mydata; did you mean 'my-data'?"):
        check_folders(parse({"data": f"dir:{tmp_path}/mydata"}))
    model = {"source": f"dir:{tmp_path}/my-data", "row": "llama3-8b"}
    run = parse({"models": {"m": model}, "tasks": {"gsm8k": {}}, "data": f"dir:{tmp_path}/my-data", "adaptation": None,
                 "methods": {}})  # fmt: skip
    with pytest.raises(ConfigError, match=f"models.m.source: there is no config.json in {tmp_path}/my-data"):
        check_folders(run)
    (tmp_path / "my-data" / "config.json").write_text("{}")
    check_folders(run)


def test_the_command_check_names_the_line(tmp_path):
    (path := tmp_path / "mine.yaml").write_text("run: a\nrun: b\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 2: 'run' is there twice"):
        CliRunner().invoke(app, ["check", "--configfile", str(path)], catch_exceptions=False)
    path.write_text("run: mine\n")
    assert "run mine is right: 4 models" in CliRunner().invoke(app, ["check", "--configfile", str(path)]).output


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_of_the_project_is_one_by_the_schema(path):
    jsonschema.validate(read_yaml(path), json.loads((ROOT / "workflow/schemas/config.schema.json").read_text()))


# ---- what the configuration knows of others


def test_layers_are_those_of_the_models():
    from transformer2.pocket.pretrain import ARCHITECTURES

    assert {name: settings.num_hidden_layers for name, (_, settings) in ARCHITECTURES.items()} == {
        name: count for name, count in POCKET_LAYERS.items() if name != "llava-next"
    }
    assert POCKET_LAYERS["llava-next"] == POCKET_LAYERS["llama"]  # its language model has the layers of its backbone
    shapes = yaml.safe_load((ROOT / "paper_tables" / "models.yaml").read_text())
    assert {name: shape["layers"] for name, shape in shapes.items()}.items() <= PAPER_LAYERS.items()


def test_every_value_in_a_command_is_quoted():
    seen = 0
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        for command in re.findall(r"^ {4}shell:\n((?: {8}.*\n)+)", file.read_text(), re.M):
            for value in re.findall(r"\{(.*?)\}", command):
                assert value == "threads" or value.startswith("resources.") or value.endswith(":q"), (
                    f"{file.name}: {value}"
                )
                seen += 1
    assert seen > 50, "commands of rules are read"
