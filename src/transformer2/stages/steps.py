"""The steps of a run, from its grid: which work there is, on which files, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer2 import paths
from transformer2.config import STRATEGIES, VISION_TASKS, Run
from transformer2.config.names import CLASSIFIER
from transformer2.grid import IDENTITY, Cell, Grid, adapter_folder
from transformer2.rows import picture_archive
from transformer2.stages.step import Step
from transformer2.tasks import TASKS
from transformer2.training.selection import ADAPTER_FILES, LAST

STAGES = ("train", "select", "derive", "answer", "adapt", "answer_adapted", "score", "choose")
LOGS = ("metrics.jsonl", "rollouts.jsonl", "validation.jsonl")
"""What a training leaves beside its expert: its updates, answers and evaluations."""
ALL_MODELS = "all"
"""In the place of a model, where a stage is one for all of them."""


class Steps:
    """The steps of one run."""

    def __init__(self, run: Run):
        self.run, self.grid = run, Grid(run)
        self.tasks = run.data_of

    @cached_property
    def all(self) -> dict[tuple[str, str], list[Step]]:
        """The steps of every stage and model, in an order in which they can be done; none of a run whose scores were
        measured elsewhere."""
        if self.run.scores is not None:
            return {}
        steps = {("choose", ALL_MODELS): [self._choose(cell) for cell in self.needed if self._kind(cell) == "choice"]}
        for model in self.run.models:
            for stage in STAGES[:-1]:
                steps[stage, model] = list(getattr(self, f"_{stage}")(model))
        return steps

    @cached_property
    def needed(self) -> list[Cell]:
        """Every cell of the grid, and those that its choices are made among."""
        cells = dict.fromkeys(self.grid.cells)
        for cell in self.grid.cells:
            if self._kind(cell) == "choice":
                cells |= dict.fromkeys(self.grid.candidates(cell))
        for cell in list(cells):  # the answers of the best state are copied where the last one is the same expert
            if best := self._best(cell):
                cells.setdefault(best)
        return list(cells)

    def _kind(self, cell: Cell) -> str:
        return self.grid.adapters[cell.adapter].kind

    def _best(self, cell: Cell) -> Cell | None:
        """The cell of the best state of the same expert, for that of a last state."""
        adapter = self.grid.adapters[cell.adapter]
        if adapter.kind != "expert" or adapter.state != "last" or "best" not in self.run.states_of(adapter.method):
            return None
        return cell._replace(adapter=adapter_folder(adapter.method, adapter.trained_on))

    def _cells(self, model: str, *kinds: str) -> list[Cell]:
        return [cell for cell in self.needed if cell.model == model and self._kind(cell) in kinds]

    def _train(self, model: str) -> Iterator[Step]:
        for method, task in self._trainings(model):
            for seed in self.run.seeds_of(method):
                for point in self.run.trained[method].points():
                    yield self._training(model, method, task, seed, point)

    def _trainings(self, model: str) -> list[tuple[str, str]]:
        """(method, task) of every expert that is trained on a model."""
        own = [(one.method, one.task) for one in self.grid.trained if one.model == model]
        return own + ([(CLASSIFIER, "classify")] if model in self.grid.adaptive(CLASSIFIER) else [])

    def _training(self, model: str, method: str, task: str, seed: int, point: str) -> Step:
        settings = self.run.training(model, method, point)
        out = self._sweep(model, method, task, seed, point)
        data = {split: self._file(task, split) for split in ("train", "validation")}
        arguments = self._of_model(model) | self._of_training(model, task) | self._engine(model, [method]) | data | {
            "task": task, "seed": seed, "out": out,
            "settings": settings | {"max_new_tokens": self.tasks[task].max_new_tokens},
        }  # fmt: skip
        of = {"model": model, "task": task, "method": method, "seed": str(seed), "point": point}
        made = [out / part / name for part in ("", LAST) for name in ADAPTER_FILES]
        return self._step(
            "train", of, arguments, out / "manifest.json", [*made, *(out / name for name in ("training.json", *LOGS))],
            self._weights(model, settings["adapter"] == "svf"), [*data.values(), *self._pictures(task, *data)],
        )  # fmt: skip

    def _of_training(self, model: str, task: str) -> dict[str, Any]:
        """What all trainings of a model have in common, beside `_of_model`."""
        recompute = self.run.models[model].gradient_checkpointing
        return {"gradient_checkpointing": recompute, "batch_rows": self.run.batch_rows(model)} | self._risk(task)

    def _select(self, model: str) -> Iterator[Step]:
        for method, task in self._trainings(model):
            for seed in self.run.seeds_of(method):
                points = [self._sweep(model, method, task, seed, point) for point in self.run.trained[method].points()]
                out = self._expert(model, task, method, seed)
                of = {"model": model, "task": task, "method": method, "seed": str(seed)}
                files = [*ADAPTER_FILES, "selection.json"]
                made = [out / part / name for part in ("", LAST) for name in files]
                read = [point / part / name for point in points for part in ("", LAST) for name in ADAPTER_FILES]
                read += [point / "training.json" for point in points]
                arguments = {"candidates": points, "out": out}
                yield self._step("select", of, arguments, out / "manifest.json", made, read)

    def _derive(self, model: str) -> Iterator[Step]:
        if self.run.adaptation is None:
            return
        yield from self._carried_over(model)
        for method, seeds in self.run.transferred(model).items():
            for task in self.run.text_tasks:
                for seed in seeds:
                    yield self._transfer(model, method, task, seed)
        of_model = self.run.models[model]
        for seed in self.run.adaptation_seeds:
            if model in self.grid.adaptive("few-shot"):
                experts = _folders(self.grid.experts_to_adapt(model, seed))
                out = Path(paths.UNIFORM_MIX.of(run=self.run.run, model=model, seed=seed))
                arguments = self._of_model(model) | {"experts": experts, "out": out}
                of = {"model": model, "seed": str(seed)}
                made = [out / name for name in ADAPTER_FILES]
                read = self._weights(model, True) + _files(experts)
                yield self._step("mix", of, arguments, out / "manifest.json", made, read)
            if of_model.backbone is None:
                experts = _folders(self.grid.experts_by_class(model, seed))
                if CLASSIFIER in of_model.strategies:
                    experts[CLASSIFIER] = self._expert(model, "classify", CLASSIFIER, seed)
                out = Path(paths.EXPERT_BUNDLE.of(run=self.run.run, model=model, seed=seed))
                of = {"model": model, "seed": str(seed)}
                made = [out / name / file for name in experts for file in ADAPTER_FILES]
                arguments = {"experts": experts, "out": out}
                yield self._step("bundle", of, arguments, out / "manifest.json", made, _files(experts))

    def _carried_over(self, model: str) -> Iterator[Step]:
        """Experts of the backbone, as far as they are mixed or compared on a vision-language model."""
        backbone = self.run.models[model].backbone
        if backbone is None or self.run.adaptation is None:
            return
        compared = [cell for cell in self._cells(model, "expert") if self._is_carried_over(cell)]
        methods = [self.run.adaptation.experts, *(self.grid.adapters[cell.adapter].method for cell in compared)]
        for method in dict.fromkeys(methods):
            for task in self.grid.compared_tasks(method):
                for seed in self.run.adaptation_seeds:
                    for part in ("", LAST):
                        source = self._expert(backbone, task, method, seed) / part
                        out = self._expert(model, task, method, seed) / part
                        of = {"model": model, "task": task, "method": method, "seed": str(seed)}
                        of |= {"state": "last"} if part else {}
                        made = [out / name for name in ADAPTER_FILES]
                        read = [source / name for name in ADAPTER_FILES]
                        arguments = {"expert": source, "out": out}
                        yield self._step("carry_over", of, arguments, out / "manifest.json", made, read)

    def _transfer(self, model: str, method: str, task: str, seed: int) -> Step:
        transfer, search = self.run.models[model].transfer, self.run.adaptation
        assert transfer is not None and search is not None
        shuffled = self.grid.is_shuffled(method)
        expert = self._expert(
            transfer.experts_of, task, search.experts, self.run.adaptation_seeds[0] if shuffled else seed
        )
        out = Path(paths.TRANSFER.of(run=self.run.run, model=model, task=task, method=method, seed=seed))
        source_basis = Path(paths.BASIS.of(model=transfer.experts_of))
        arguments = {
            "expert": expert, "source_basis": source_basis, "model": self._base(model), "basis": self._basis(model),
            "out": out, "mapping": transfer.mapping, "shuffle": seed if shuffled else None,
        }  # fmt: skip
        of = {"model": model, "task": task, "method": method, "seed": str(seed)}
        read = [*self._weights(model, True), source_basis, *(expert / name for name in ADAPTER_FILES)]
        return self._step(
            "transfer", of, arguments, out / "manifest.json", [out / name for name in ADAPTER_FILES], read
        )

    def _answer(self, model: str) -> Iterator[Step]:
        cells = self._cells(model, "base", "expert")
        if self.run.models[model].backbone is not None:  # its backbone's experts are there after `derive` alone
            cells = [cell for cell in cells if not self._is_carried_over(cell)]
        yield from self._answers(cells)

    def _answer_adapted(self, model: str) -> Iterator[Step]:
        carried = [cell for cell in self._cells(model, "expert") if self._is_carried_over(cell)]
        yield from self._answers([*carried, *self._cells(model, "transferred", "uniform", "mix", "on_shots")])

    def _is_carried_over(self, cell: Cell) -> bool:
        """Whether the expert of a cell is one of the backbone of its model."""
        backbone = self.run.models[cell.model].backbone
        return backbone is not None and self.grid.adapters[cell.adapter].trained_on in self.run.text_tasks

    def _answers(self, cells: Sequence[Cell]) -> Iterator[Step]:
        for cell in sorted(cells, key=lambda cell: self._best(cell) is not None):  # best states before last ones
            files = self.grid.files_to_answer(cell)
            data = self._file(cell.task, "test")
            methods = [] if cell.adapter == "base" else [self.grid.method_of(cell.adapter)]
            out = self._answers_file(cell)
            arguments: dict[str, Any] = self._of_model(cell.model) | self._engine(cell.model, methods) | {
                "task": cell.task, "data": data, "out": out,
                "basis": Path(files["basis"]) if "basis" in files else None,
                "expert": Path(files["expert"]).parent if "expert" in files else None,
                "best": Path(files["best"]).parent if "best" in files else None,
                "best_answers": Path(files["best_answers"]) if "best" in files else None,
                "max_new_tokens": self.tasks[cell.task].max_new_tokens, "batch_rows": self.run.batch_rows(cell.model),
            }  # fmt: skip
            read = self._weights(cell.model, "basis" in files) + [data, *self._pictures(cell.task, "test")]
            read += _files({name: Path(files[name]).parent for name in ("expert", "best") if name in files})
            best = self._best(cell) or cell
            group = f"{best.adapter} {cell.task} {cell.seed}"
            manifest = out.with_suffix(".manifest.json")
            yield self._step("answer", cell_names(cell), arguments, manifest, [out], read, together=group)

    def _adapt(self, model: str) -> Iterator[Step]:
        for cell in self._cells(model, "dispatch"):
            yield self._dispatch(cell)
        for of_model, task, budget in self.grid.searches:
            if of_model == model and self.run.adaptation is not None:
                for configuration in self.run.adaptation.configurations:
                    for seed in self.run.adaptation_seeds:
                        yield self._search(model, task, budget, configuration, seed)
        for cell in self._cells(model, "on_shots"):
            yield self._on_shots(cell)

    def _dispatch(self, cell: Cell) -> Step:
        strategy, first_pass = STRATEGIES[cell.adapter]
        experts = _folders(self.grid.experts_by_class(cell.model, cell.seed))
        cls = self._expert(cell.model, "classify", CLASSIFIER, cell.seed) if strategy == CLASSIFIER else None
        data, out = self._file(cell.task, "test"), self._answers_file(cell)
        decisions = Path(paths.DECISIONS.of(run=self.run.run, **cell._asdict()))
        assert self.run.adaptation is not None
        arguments = self._of_model(cell.model) | {
            "experts": experts, "classifier": cls, "first_pass": first_pass, "task": cell.task, "data": data,
            "identity": self.grid.identity(cell), "max_new_tokens": self.tasks[cell.task].max_new_tokens,
            "class_tokens": self.run.adaptation.class_tokens, "batch_rows": self.run.batch_rows(cell.model),
            "out": out, "decisions": decisions,
        }  # fmt: skip
        read = self._weights(cell.model, True) + _files(experts | ({CLASSIFIER: cls} if cls else {})) + [data]
        manifest = out.with_suffix(".manifest.json")
        return self._step("dispatch", cell_names(cell), arguments, manifest, [out, decisions], read)

    def _search(self, model: str, task: str, budget: str, configuration: str, seed: int) -> Step:
        experts = _folders(self.grid.experts_to_mix(model, budget, seed))
        names = {"model": model, "task": task, "budget": budget, "configuration": configuration, "seed": str(seed)}
        out, data = Path(paths.MIX.of(run=self.run.run, **names)), self._file(task, "test")
        arguments = self._of_model(model) | self._risk(task) | {
            "experts": experts, "task": task, "shots": data, "n": self.grid.budgets[budget].shots, "seed": seed,
            "settings": self.run.search(budget, configuration, task), "out": out,
            "identity": self.grid.search_identity(model, task, seed, budget, configuration),
            "batch_rows": self.run.batch_rows(model),
        }  # fmt: skip
        read = self._weights(model, True) + _files(experts) + [data, *self._pictures(task, "test")]
        made = [out / name for name in (*ADAPTER_FILES, "adaptation.json")]
        return self._step("adapt", names, arguments, out / "manifest.json", made, read)

    def _on_shots(self, cell: Cell) -> Step:
        adapter, search = self.grid.adapters[cell.adapter], self.run.adaptation
        assert search is not None
        method, shots = adapter.configuration, search.budgets[adapter.budget].shots
        out, data = Path(self.grid.mix_folder(cell)), self._file(cell.task, "test")
        settings = self.run.training(cell.model, method, "single")
        settings |= {"batch_size": shots, "max_new_tokens": self.tasks[cell.task].max_new_tokens}
        arguments = self._of_model(cell.model) | self._of_training(cell.model, cell.task) | {
            "task": cell.task, "train": data, "validation": data, "shots": shots, "settings": settings,
            "seed": cell.seed, "out": out,
        }  # fmt: skip
        of = {"model": cell.model, "task": cell.task, "budget": adapter.budget, "configuration": method}
        made = [out / name for name in (*ADAPTER_FILES, "training.json", *LOGS)]
        read = self._weights(cell.model, settings["adapter"] == "svf") + [data, *self._pictures(cell.task, "test")]
        return self._step("train", of | {"seed": str(cell.seed)}, arguments, out / "manifest.json", made, read)

    def _score(self, model: str) -> Iterator[Step]:
        for cell in self._cells(model, "base", "expert", "transferred", "uniform", "mix", "on_shots", "dispatch"):
            data, answers, out = self._file(cell.task, "test"), self._answers_file(cell), self._scores_file(cell)
            arguments = self._risk(cell.task) | {
                "task": cell.task, "data": data, "answers": answers, "out": out, "identity": self._identity(cell),
            }  # fmt: skip
            manifest = out.with_suffix(".manifest.json")
            yield self._step("score", cell_names(cell), arguments, manifest, [out], [data, answers])

    def _choose(self, cell: Cell) -> Step:
        adapter, search = self.grid.adapters[cell.adapter], self.run.adaptation
        assert search is not None
        candidates = self.grid.candidates(cell)
        scores = {candidate.adapter: self._scores_file(candidate) for candidate in candidates}
        searched = [
            Path(self.grid.mix_folder(candidate)) / "adaptation.json"
            for candidate in candidates
            if self._kind(candidate) == "mix"
        ]
        data, out = self._file(cell.task, "test"), self._scores_file(cell)
        arguments = {
            "candidates": scores, "by": adapter.chosen_by, "which": search.score, "shots": adapter.shots,
            "task": cell.task, "data": data, "adaptation": searched, "identity": self._identity(cell), "out": out,
        }  # fmt: skip
        manifest = out.with_suffix(".manifest.json")
        read = [*scores.values(), *searched, data]
        return self._step("choose", cell_names(cell), arguments, manifest, [out], read)

    # ---- parts of steps

    def _step(
        self, work: str, of: Mapping[str, str], arguments: Mapping[str, Any], manifest: Path, outputs: Sequence[Path],
        *inputs: Sequence[Path], together: str = "",
    ) -> Step:  # fmt: skip
        unused = [] if self.run.engine == "vllm" else ["rollout.vllm", "rollout.vllm_worker", "rollout.merged"]
        if "task" in of and not TASKS[of["task"]].runs_code:
            unused.append("sandbox")
        read = tuple(path for part in inputs for path in part)
        besides = {"report_to": self.run.report_to} if work == "train" and self.run.report_to else {}
        return Step(work, of, arguments, manifest, read, tuple(outputs), together, tuple(unused), besides)

    def _identity(self, cell: Cell) -> dict[str, Any]:
        identity = self.grid.identity(cell)
        return {key: identity[key] for key in IDENTITY}

    def _engine(self, model: str, methods: Sequence[str]) -> dict[str, Any]:
        """Who answers with experts of these methods; for vLLM, on how many GPUs."""
        engine = self.run.engine_for(model, methods)
        return {"engine": engine} | ({"gpus": max(1, self.run.models[model].gpus)} if engine == "vllm" else {})

    def _risk(self, task: str) -> dict[str, Any]:
        return {"allow_unsandboxed_code": self.run.allow_unsandboxed_code} if TASKS[task].runs_code else {}

    def _of_model(self, model: str) -> dict[str, Any]:
        return {"model": self._base(model), "basis": self._basis(model), "dtype": self.run.models[model].dtype}

    def _base(self, model: str) -> Path:
        return Path(paths.BASE.of(model=model))

    def _basis(self, model: str) -> Path:
        return Path(paths.BASIS.of(model=model))

    def _weights(self, model: str, basis: bool) -> list[Path]:
        return [self._base(model), *([self._basis(model)] if basis else [])]

    def _file(self, task: str, split: str) -> Path:
        return Path(paths.DATA.of(run=self.run.run, task=task, split=split))

    def _pictures(self, task: str, *splits: str) -> list[Path]:
        files = [self._file(task, split) for split in splits] if task in VISION_TASKS else []
        return [picture_archive(file) for file in files]

    def _sweep(self, model: str, method: str, task: str, seed: int, point: str) -> Path:
        names = {"model": model, "method": method, "task": task, "seed": seed, "point": point}
        return Path(paths.SWEEP.of(run=self.run.run, **names))

    def _expert(self, model: str, task: str, method: str, seed: int) -> Path:
        return Path(self.grid.expert(model, task, method, seed)).parent

    def _answers_file(self, cell: Cell) -> Path:
        return Path(paths.ANSWERS.of(run=self.run.run, **cell._asdict()))

    def _scores_file(self, cell: Cell) -> Path:
        return Path(paths.SCORES.of(run=self.run.run, **cell._asdict()))


def cell_names(cell: Cell) -> dict[str, str]:
    """A cell by the names that paths and messages have for it."""
    return {name: str(value) for name, value in cell._asdict().items()}


def _folders(files: Mapping[str, str]) -> dict[str, Path]:
    return {name: Path(file).parent for name, file in files.items()}


def _files(experts: Mapping[str, Path]) -> list[Path]:
    """The files of experts."""
    return [folder / name for folder in experts.values() for name in ADAPTER_FILES]
