"""A finished run as a Workflow Run RO-Crate: what ran, on what, and what came out, for repositories and registries.

The profiles are https://w3id.org/ro/wfrun/workflow/0.5 and those that it extends. Generations, scored answers and
weights stay where they are: the crate has their paths and checksums, in the form that `sha256sum --check` reads.
"""

import hashlib
import itertools
import json
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from transformer2.checksums import sha256
from transformer2.config import Run
from transformer2.provenance import atomic_path
from transformer2.report import summary, text
from transformer2.report.contents import Contents

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
"""Where `sha256` is defined."""
LICENSE = "https://spdx.org/licenses/Apache-2.0"
PAPER = "https://arxiv.org/abs/2501.06252"
FORMATS = {
    ".csv": "text/csv", ".gz": "application/gzip", ".html": "text/html", ".json": "application/json",
    ".md": "text/markdown", ".pdf": "application/pdf", ".png": "image/png", ".svg": "image/svg+xml",
    ".tex": "application/x-tex", ".yaml": "application/yaml",
}  # fmt: skip
"""Suffix -> encoding format; others are plain text."""
FRAMES = {
    "scores.csv.gz": "Every scored sample",
    "experts.csv": "Every expert, and how it was trained",
    "decisions.csv.gz": "Classes that prompts were given",
    "timings.csv": "Seconds of both passes",
    "alphas.csv.gz": "Mixing weights of every search",
    "curves.csv.gz": "Learning curves of every expert",
    "half_gain.csv": "Updates and samples to half of the gain on validation",
    "spectra.csv": "What the top singular values of every matrix hold",
    "illustration.json": "What the schematic figures show",
    "verdicts.csv": "The papers' gains beside ours, with the verdict on each",
    "verdicts.md": "The same, to read",
    "verdicts-pooled.csv": "The gain of every method over the cells of a table",
    "claims.csv": "The papers' claims, and whether they hold here",
    "claims.md": "The same, to read",
    "coverage.csv": "How far each reported number and each claim has come",
    "audit.csv": "The papers' numbers, checked against each other",
    "audit.md": "The same, to read",
    "report.html": "Tables and figures on one page",
}
"""Files of a run that a crate may hold besides tables and figures."""
KEPT = (
    "generations/**/*.jsonl", "scores/**/*.json", "experts/**/adapter_model.safetensors",
    "mixes/**/adapter_model.safetensors", "transfers/**/adapter_model.safetensors",
)  # fmt: skip
"""Files of a run that the crate describes by path and checksum alone."""
README = """# Run “{run}” of the reproduction of Transformer²

What ran (`Snakefile`), with what settings (`config.yaml`), on what (manifests of models and data), and what came out:
`results/{run}/`. `ro-crate-metadata.json` describes all of it as a Workflow Run RO-Crate. Answers, scores and weights
are not in here; in the folder of the project, `sha256sum --check SHA256SUMS` says whether those there are of this run.
"""
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the archive (the earliest that the format knows): the same run gives the same bytes."""


class _Crate:
    """A crate in the making, and the content of its files by name."""

    def __init__(self) -> None:
        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_contexts.append(TERMS)
        self.contents: dict[str, bytes] = {}

    def file(self, name: str, content: bytes, title: str, **more: Any) -> Any:
        """Adds a file."""
        self.contents[name] = content
        about = {"name": title, "encodingFormat": FORMATS.get(Path(name).suffix, "text/plain"), **_size(content)}
        return self.crate.add_file(BytesIO(content), dest_path=name, properties=about | more)

    def thing(self, address: str, kind: str, **properties: Any) -> Any:
        """Adds something that is no file of the crate; properties may be other entities."""
        entity: Any = self.crate.add(ContextEntity(self.crate, address, properties={"@type": kind}))
        return _describe(entity, **properties)


def write_crate(run: Run, folder: Path, contents: Contents, root: Path, ledger: Path, snakemake: str) -> Path:
    """Writes the crate of the run in `folder` to `run.crate.zip` there, with all that it has to show; returns its path.

    Arguments and errors as `crate`.
    """
    pages = (
        "audit.csv", "audit.md", "claims.csv", "claims.md", "coverage.csv", "verdicts.csv", "verdicts.md",
        "verdicts-pooled.csv", "report.html",
    )  # fmt: skip
    shown = ["illustration.json"] if contents.reads("illustration") else []
    names = [*contents.frames, *shown, *contents.table_files(), *contents.figure_files(), *pages]
    out = folder / "run.crate.zip"
    files = [folder / name for name in names]
    crate(folder, contents, files, run.model_dump(mode="json"), root, ledger, snakemake, out)
    return out


def crate(
    results: Path, contents: Contents, files: Sequence[Path], settings: dict[str, Any], root: Path, ledger: Path,
    snakemake: str, out: Path,
) -> None:  # fmt: skip
    """Writes the crate of the run in `results/<run>` to `out`, a zip archive.

    Args:
        results: of the run; base models lie beside it, in `models`.
        contents: of the run.
        files: tables, figures, frames and pages that the run has now.
        settings: the resolved configuration of the run.
        root: the project, with the Snakefile; or the folder that a module of it was deployed into.
        ledger: what the papers report.
        snakemake: its version.

    The same run gives the same bytes; its times are those of its manifests. Raises ValueError if the run has no
    manifest, or one that is corrupt.
    """
    manifests = summary.manifests(results, contents)
    made, (started, ended) = _Crate(), map(_utc, summary.span(manifests))
    action = made.thing(
        f"#run-{results.name}", "CreateAction", name=f"Run “{results.name}”", startTime=started, endTime=ended,
        description=f"Snakemake, from {'scores measured elsewhere' if settings.get('scores') else 'base models'} "
        "to the tables of the papers",
        actionStatus="http://schema.org/CompletedActionStatus",
        instrument=_workflow(made, manifests, root, snakemake),
        object=_inputs(made, results, contents, settings, ledger), result=_outputs(made, results, contents, files),
    )  # fmt: skip
    made.file("README.md", README.format(run=results.name).encode(), "About this crate", about={"@id": "./"})
    contributors = made.thing("#contributors", "Organization", name="The Transformer² reproduction contributors")
    _describe(
        made.crate.root_dataset,
        name=f"Run “{results.name}” of the reproduction of Transformer²",
        description="Tables, figures and scores of one run of the workflow, beside what the papers report.",
        datePublished=ended,
        conformsTo=[
            made.thing(address, "CreativeWork", name=name, version=version)
            for address, (name, version) in PROFILES.items()
        ],
        license=made.thing(LICENSE, "CreativeWork", name="Apache License 2.0", identifier="Apache-2.0", url=LICENSE),
        author=contributors, publisher=contributors, mentions=action,
        citation=made.thing(PAPER, "ScholarlyArticle", name="Transformer²: Self-adaptive LLMs", url=PAPER),
    )  # fmt: skip
    _write(made.contents | {"ro-crate-metadata.json": _json(made.crate.metadata.generate())}, out)


def _workflow(made: _Crate, manifests: list[dict[str, Any]], root: Path, snakemake: str) -> Any:
    """The Snakefile with the files that it includes, and what the jobs ran with."""
    main = next(file for file in (root / "Snakefile", root / "workflow" / "Snakefile") if file.is_file())
    content = made.contents["Snakefile"] = main.read_bytes()
    workflow: Any = made.crate.add_workflow(
        BytesIO(content), "Snakefile", main=True, lang="snakemake", lang_version=snakemake
    )
    parts = [*sorted((root / "workflow" / "rules").glob("*.smk")), *sorted((root / "envs").glob("*.yaml"))]
    return _describe(
        workflow,
        name="Transformer², reproduced",
        version=", ".join(sorted({manifest["git"] for manifest in manifests if manifest["git"]})) or "unknown",
        license={"@id": LICENSE},
        encodingFormat="text/plain",
        conformsTo={"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
        hasPart=[made.file(_name(path, root), path.read_bytes(), f"Workflow: {path.stem}") for path in parts],
        softwareRequirements=[
            made.thing(address, "SoftwareApplication", name=name, softwareVersion=version, url=address)
            for address, name, version in _software(manifests)
        ],
        **_size(content),
    )  # fmt: skip


def _inputs(made: _Crate, results: Path, contents: Contents, settings: dict[str, Any], ledger: Path) -> list[Any]:
    """The configuration, the ledger, and manifests of base models and data."""
    inputs = [made.file("config.yaml", _yaml(settings), "Configuration of the run, with every default")]
    for path in sorted(ledger.glob("*/*.yaml")):
        title = f"What {text.paper(path.parent.name)} reports: {path.stem}"
        inputs.append(made.file(f"paper_tables/{_name(path, ledger)}", path.read_bytes(), title))
    models = [] if settings.get("scores") else settings["models"]
    inputs += [_base_model(made, model, results.parent / "models" / model / "base") for model in models]
    of_data = [contents.find(results, pattern) for pattern in ("data/*/*.manifest.json", "scores.manifest.json")]
    for path in itertools.chain(*of_data):
        name = _name(path, results.parents[1])
        inputs.append(made.file(name, path.read_bytes(), f"Manifest of {name.removesuffix('.manifest.json')}"))
    return inputs


def _base_model(made: _Crate, name: str, folder: Path) -> Any:
    """A base model as its manifest describes it."""
    path = folder / "manifest.json"
    manifest = summary.manifest(path)
    sums = [
        made.thing(f"#model-{name}-{file}", "PropertyValue", name=f"sha256 of {file}", propertyID="sha256", value=value)
        for file, value in sorted(manifest["sha256"].items())
    ]
    hub = manifest["source"].removeprefix("hub:")
    return made.thing(
        f"#model-{name}", "CreativeWork", name=f"Base model {name}", identifier=[manifest["source"], *sums],
        subjectOf=made.file(f"results/models/{name}/base/manifest.json", path.read_bytes(), f"Manifest of {name}"),
        **({"version": manifest["revision"]} if manifest.get("revision") else {}),
        **({"url": f"https://huggingface.co/{hub}"} if hub != manifest["source"] else {}),
    )  # fmt: skip


def _outputs(made: _Crate, results: Path, contents: Contents, files: Sequence[Path]) -> list[Any]:
    """What the run measured, as files; and a list of what stays where it is."""
    described = []
    for path in sorted(set(files)):
        folder, *inner = path.relative_to(results).parts
        kind = {"paper_tables": "Table", "figures": "Figure"}.get(folder)
        title = f"{kind}: {'/'.join(inner)}" if kind else FRAMES[folder]
        described.append(made.file(_name(path, results.parents[1]), path.read_bytes(), title))
    kept = sorted(path for pattern in KEPT for path in contents.find(results, pattern))
    if kept:
        sums = "".join(f"{sha256(path)}  {_name(path, results.parents[1])}\n" for path in kept)
        described.append(made.file("SHA256SUMS", sums.encode(), "Checksums of answers, scores and weights"))
    return described


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _size(content: bytes) -> dict[str, str]:
    return {"contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}


def _describe(entity: Any, **properties: Any) -> Any:
    for name, value in properties.items():
        entity[name] = value
    return entity


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _software(manifests: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(address, name, version) of everything that the jobs ran with; several versions where jobs differ."""
    versions = {("python", manifest["python"]) for manifest in manifests}
    versions |= {pair for manifest in manifests for pair in manifest["packages"].items() if pair[1]}
    return [(_address(name, version), name, version) for name, version in sorted(versions)]


def _address(name: str, version: str) -> str:
    if name == "python":
        return f"https://www.python.org/downloads/release/python-{version.replace('.', '')}/"
    release, plus, local = version.partition("+")
    return f"https://pypi.org/project/{name}/{release}/" + (f"#{local}" if plus else "")


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _write(contents: dict[str, bytes], out: Path) -> None:
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
