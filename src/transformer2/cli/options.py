"""The application, options that several commands have, and what they are read into."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from transformer2 import config as configuration
from transformer2.gpus import reserve

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="One thin command for each step of the workflow; every one of them runs by hand too.",
)

File = Annotated[Path, typer.Option()]
Text = Annotated[str, typer.Option()]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
Rows = Annotated[int, typer.Option(min=1, help="prompts that are answered side by side")]
Tokens = Annotated[int | None, typer.Option(min=1, help="of an answer at most; the task's own number without it")]
ENGINES = ("hf", "vllm")
TRACKERS: tuple[str, ...] = get_args(configuration.Tracker)
EngineName = Annotated[str, typer.Option(help="hf | vllm: who answers (docs/vllm.md)")]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs to take of those that are free; all without it")]
RiskyCode = Annotated[
    bool, typer.Option(help="Run model-written code with resource limits alone where no isolation works.")
]


Experts = Annotated[list[str], typer.Option(help="<name>=<folder of an expert>, repeated")]
ExpertFolder = Annotated[Path | None, typer.Option(help="folder with one subfolder for each expert, named after it")]
PAPER_TABLES = Path(__file__).parents[1] / "paper_tables"
"""The ledger and its templates, in the package (in a checkout by a link), whatever folder a command is started in."""


def start_torch(threads: int, gpus: int | None = None) -> None:
    """As many threads and GPUs as Snakemake gave the job, and the fastest float32 products.

    "medium" hands them to oneDNN on a CPU, faster than MKL on AMD processors at the same error (only processors with
    AMX round to bfloat16 inside); on a GPU it allows TF32.
    """
    import torch

    if gpus is not None:
        reserve(gpus)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")


def json_option(option: str, text: str) -> dict[str, Any]:
    """The mapping that an option holds as JSON.

    Raises:
        ValueError: it is not JSON, or no mapping.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise ValueError(f'{option} must be a JSON mapping such as {{"key": 1}}, not {text[:80]!r}')
    return value


def identity_of(text: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """What a file of results says of itself, from `--identity`; ValueError if one of `keys` is missing."""
    identity = json_option("--identity", text)
    if missing := [key for key in keys if key not in identity]:
        raise ValueError(f"--identity has no {', '.join(missing)}; it has {', '.join(identity) or 'no key'}")
    return identity


def named(pairs: list[str]) -> dict[str, Path]:
    """`<name>=<path>` options as a mapping; the names may name folders."""
    by_name: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise ValueError(f"{pair!r} is not <name>=<path>")
        if name in (".", "..") or "/" in name or not name.isprintable():
            raise ValueError(f"{name!r} in {pair!r} cannot be a name: leave out '/' and do not call it '.' or '..'")
        if name in by_name:
            raise ValueError(f"{name} is given twice: {by_name[name]} and {path}")
        by_name[name] = Path(path)
    return by_name


def experts_of(pairs: list[str], folder: Path | None) -> dict[str, Path]:
    """Experts by name, from `--expert` options or from the subfolders of `--experts`."""
    folders = named(pairs)
    if folder is not None:
        folders |= {path.parent.name: path.parent for path in sorted(folder.glob("*/adapter_config.json"))}
    if not folders:
        raise ValueError(f"no expert {f'in {folder} ' if folder else ''}(subfolders with an adapter_config.json)")
    return folders


def base_of(folders: dict[str, Path]) -> Path:
    """The base model that the experts name; all must name the same."""
    from transformer2.experts import read_expert

    bases = {read_expert(folder)[0].base_model_name_or_path for folder in folders.values()}
    if len(bases) != 1 or not (base := bases.pop()):
        raise ValueError("the experts do not name one base model: give it with --model")
    return Path(base)


def one_of(what: str, name: str, valid: tuple[str, ...]) -> Any:
    if name not in valid:
        raise ValueError(configuration.unknown(what, name, valid))
    return name
