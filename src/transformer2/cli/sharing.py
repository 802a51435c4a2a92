"""Commands for others' use of what is here: an expert on the Hugging Face hub, the tasks in another harness."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from transformer2.cli.options import PAPER_TABLES, File, Text, Threads, app, start_torch


@app.command()
def push(
    expert: File, model: File, repo: Annotated[str, typer.Option(help="<owner>/<name> on the hub")],
    basis: Path | None = None,
    hub_id: Annotated[str | None, typer.Option(help="of the base model, where its source does not say it")] = None,
    dtype: Text = "float32",
    revision: Annotated[str | None, typer.Option(help="branch to commit to; it is made if it is missing")] = None,
    public: Annotated[bool, typer.Option("--public", help="for everybody to see, if the repository is new")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be pushed, and push nothing")] = False,
    threads: Threads = 1, templates: Path = PAPER_TABLES / "templates",
) -> None:  # fmt: skip
    """Publish an expert of a run on the hub: adapter, model card, scores in the hub's layout, and their manifest.

    A new repository is private. Everything comes in one commit. The hub's library finds the credentials by itself (`hf
    auth login`).
    """
    from transformer2.push import Repository, check_credentials, gather, upload

    repository = Repository(repo, revision, not public)
    if not dry_run:
        check_credentials()
    start_torch(threads)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "expert"
        left_out = gather(expert, model, repository, out, basis, hub_id, dtype, templates)
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            print(f"{path.relative_to(out)} ({path.stat().st_size:,} bytes)")
        for task, reason in left_out.items():
            print(f"no .eval_results for {task}: {reason}")
        seen = "everybody sees" if public else "private if it is new"
        print(f"{repo} ({seen}): nothing was pushed" if dry_run else f"pushed: {upload(out, repository)}")


@app.command("lm-eval")
def lm_eval(out: Annotated[Path, typer.Option(help="folder for the task files")]) -> None:
    """Write a task file for lm-eval for each of the paper's data sets, which asks and scores as this package does."""
    from transformer2.harness import write_task_files

    for path in write_task_files(out):
        print(path)
