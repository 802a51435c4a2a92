"""An expert on the Hugging Face hub: adapter, model card, scores and the manifest that leads to them, in one commit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from transformer2 import eval_results, model_card
from transformer2.experts import CONFIG
from transformer2.export import export
from transformer2.provenance import write_json
from transformer2.tasks import TASKS

RESULTS = constants.EVAL_RESULTS_FOLDER
OURS = (f"{RESULTS}/", "scores/")
"""Folders of a repository that hold what was pushed last, and nothing else."""
LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may write"
EVIDENCE = "\n`manifest.json` says by checksums how this adapter was trained"
OF_SCORES = ", and leads from each score to its answers and their data. Scores of all items are in `scores/`"


@dataclass(frozen=True)
class Repository:
    """Where an expert is pushed to."""

    name: str
    """<owner>/<name>"""
    revision: str | None = None
    """A branch, made if it is missing; None: main."""
    private: bool = True

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.name)
            valid = "/" in self.name
        except HFValidationError:
            valid = False
        if not valid:
            raise ValueError(f"{self.name!r} is no name of a repository of the hub: give <owner>/<name>")

    def address(self, file: str) -> str:
        return f"{constants.ENDPOINT}/{self.name}/blob/{self.revision or constants.DEFAULT_REVISION}/{file}"


def gather(
    expert: Path, model: Path, repository: Repository, out: Path, basis: Path | None, hub_id: str | None, dtype: str,
    templates: Path,
) -> dict[str, str]:  # fmt: skip
    """Writes the files of a repository into the folder `out`, which must not be there.

    Args:
        expert: folder of the expert, in the files of its run.
        model: folder of its base model.
        repository: that they are meant for.
        basis: of an SVF expert's base model; None: decompose on the spot.
        hub_id: of the base model, where its source is not the hub.
        dtype: that the expert was trained in.
        templates: folder with model_card.md.j2.

    Returns: the tasks whose scores are in no file of `.eval_results`, each with the reason.

    Raises:
        ValueError: as `export`, `eval_results.place_in_run` and `eval_results.measured`.
        ConnectionError: the hub cannot be asked for its benchmarks.
    """
    place = eval_results.place_in_run(expert)
    scores = list(eval_results.measured(expert, place))
    proven = {one.task: eval_results.answered_by(expert, one) for one in scores}
    if wrong := [one.file for one in scores if proven[one.task] is False]:
        raise ValueError(f"{wrong[0]} is of answers of another adapter than that in {expert}: run the workflow again")
    export(expert, model, out, "adapter", None, basis, hub_id, dtype, templates)
    base = model_card.Base.read(model, hub_id, dtype).said
    reasons: dict[str, str] = {}
    (out / "scores").mkdir()
    for one in scores:
        shutil.copyfile(one.file, out / "scores" / f"{one.task}.json")
        task_id, reason = _counts(one, proven[one.task])
        if task_id is None:
            reasons[one.task] = reason
            continue
        written = eval_results.entry(one, task_id, base, repository.address(f"scores/{one.task}.json"))
        (out / RESULTS).mkdir(exist_ok=True)
        (out / RESULTS / f"{one.task}.yaml").write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    write_json(out / "manifest.json", eval_results.evidence(expert, scores), with_checksum=False)
    with open(out / "README.md", "a", encoding="utf-8") as card:
        card.write(f"{EVIDENCE}{OF_SCORES if scores else ''}.\n")
    return reasons


def _counts(one: eval_results.Measured, proven: bool | None) -> tuple[str | None, str]:
    """The id of the benchmark's task that scores count for, or None and why they count for none."""
    if proven is None:
        return None, "the manifest of its answers does not say which adapter gave them (an older version wrote it)"
    if reason := eval_results.left_out(one):
        return None, reason
    return benchmark(one.task), "the hub has no benchmark with such a task at its data set"


def benchmark(task: str) -> str | None:
    """The id of a task in the benchmark that its data set is on the hub; None if it is none.

    Raises:
        ConnectionError: the hub does not answer.
    """
    source: Any = TASKS[task].source
    try:
        file = hf_hub_download(source.repository, "eval.yaml", repo_type="dataset")
    except (RemoteEntryNotFoundError, RepositoryNotFoundError):
        return None
    except (OSError, httpx2.HTTPError) as error:
        raise ConnectionError(
            f"the hub cannot be asked whether {source.repository} is a benchmark ({error})"
        ) from error
    return eval_results.task_of_benchmark(task, yaml.safe_load(Path(file).read_text(encoding="utf-8")).get("tasks", []))


def check_credentials() -> None:
    """Raises ValueError unless the library finds credentials that the hub takes; they are not looked at here."""
    with in_one_line("the hub"):
        HfApi().whoami()


def upload(folder: Path, repository: Repository) -> str:
    """Puts the files of a folder into a repository, which is made if it is missing; returns the commit's address.

    All files come in one commit, so that nobody sees half of them; scores that were pushed before go with it.

    Raises:
        ValueError: no credentials, or they may not write there; the repository holds something else than an adapter.
        ConnectionError: the hub does not answer.
    """
    api, name, branch = HfApi(token=True), repository.name, repository.revision
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with in_one_line(name):
        api.create_repo(name, private=repository.private, exist_ok=True)
        there = set(api.list_repo_files(name))
        if there - {".gitattributes", "README.md"} and CONFIG not in there:
            raise ValueError(f"{name} is there, and holds no adapter: it is left as it is; choose another name")
        if branch:
            api.create_branch(name, branch=branch, exist_ok=True)
            there = set(api.list_repo_files(name, revision=branch))
        stale = [file for file in there if file.startswith(OURS) and file not in files]
        operations = [CommitOperationAdd(file, path) for file, path in files.items()]
        commit = api.create_commit(
            name, [*operations, *map(CommitOperationDelete, stale)], revision=branch,
            commit_message="Push an expert of transformer2",
        )  # fmt: skip
    return commit.commit_url


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Says in one line what the hub refuses, and what to do."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError(f"there are no credentials for the hub: {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or "".join(str(error).splitlines()[:1])
        if status == 401:
            raise ValueError(f"the hub does not take your credentials ({said}): {LOGIN}") from None
        if status in (400, 403, 404, 409, 422):
            raise ValueError(
                f"the hub refuses {what} ({status}: {said}): check the name and your rights there"
            ) from None
        raise ConnectionError(f"{what}: the hub answers with an error ({status}: {said}): try again later") from error
    except (OSError, RuntimeError, httpx2.HTTPError) as error:
        raise ConnectionError(f"{what}: the hub cannot be reached ({error}): nothing was committed") from error
