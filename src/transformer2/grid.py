"""The grid of a run: which experts, mixes, choices and scores there are, and which files each of them needs.

A run compares adapters on tasks. An adapter is whatever answers: the base model, an expert in one state of training, an
expert of another model, a mix, a way to send prompts to experts, or a choice among several of these. A cell is an
adapter on a task, with a model and a seed. All of this follows from the configuration.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from transformer2 import paths
from transformer2.config import CONFIGURATIONS, CROSS, STRATEGIES, Run
from transformer2.config.names import CLASSIFIER, MAIN_BUDGET
from transformer2.tasks import TASKS

UNIFORM = "uniform"
IDENTITY = ("run", "model", "stands_in_for", "standin", "method", "trained_on", "state", "task", "seed")
"""What a file of scores says of itself: columns of the tidy frame. `state` is that of the trainings behind it, best (on
validation) or last; empty where no training is, or where several are mixed or dispatched to."""
Kind = Literal["base", "expert", "transferred", "uniform", "mix", "on_shots", "dispatch", "choice"]


@dataclass(frozen=True)
class Adapter:
    """What answers a task, or is chosen to count as the answer of others."""

    name: str
    kind: Kind
    method: str
    """In whose row of a table it counts; also the folder of an expert."""
    trained_on: str = ""
    state: str = ""
    """Of the training of an expert: best (on validation) or last."""
    budget: str = ""
    """Of a mix, and of a training on shots."""
    configuration: str = ""
    """Of the search of a mix; for a training on shots, the method that is trained."""
    candidates: tuple[str, ...] = ()
    """Adapters that a choice is made among."""
    shots: int = 0
    """Items that a choice leaves out of the score."""
    chosen_by: str = ""
    """What a choice looks at: the shots, or the test items."""


class Cell(NamedTuple):
    """A score: what an adapter on a model makes of a task. `seed` is that of its training or search."""

    model: str
    adapter: str
    task: str
    seed: int


class Expert(NamedTuple):
    """A training, whose sweep ends in one expert."""

    model: str
    method: str
    task: str


def adapter_folder(method: str, trained_on: str = "", state: str = "") -> str:
    """Folder of what an adapter measured, which is its name: its method, what its expert learnt, and a mark where its
    experts are in the last state of their training."""
    return "-".join(part for part in (method, trained_on, "last" if state == "last" else "") if part)


class Grid:
    """The grid of one run."""

    def __init__(self, run: Run):
        self.run = run
        self.search = run.adaptation
        self.budgets = run.budgets if run.adaptation else {}
        self.language_models = [name for name, model in run.models.items() if model.backbone is None]
        self.benchmarks = [task for task in run.data_of if task != "classify"]

    # ---- experts

    @cached_property
    def trained(self) -> list[Expert]:
        """Every training of a training task; the classification expert is none."""
        return [
            Expert(model, method, task)
            for method, settings in self.run.methods.items()
            for model in self.run.models_of(method)
            for task in self.run.tasks_of(model)
            if settings.tasks is None or task in settings.tasks
        ]

    @cached_property
    def transferred_methods(self) -> list[str]:
        """Methods whose experts come from another model."""
        return sorted({method for model in self.run.models for method in self.run.transferred(model)})

    @staticmethod
    def is_shuffled(method: str) -> bool:
        """Whether the seed of a transferred expert is that of a shuffle."""
        return method.endswith("_shuffled")

    def unseen(self, model: str) -> list[str]:
        """Tasks that experts of a model are adapted to."""
        return self.run.unseen_of(model) if self.search else []

    def adaptive(self, strategy: str) -> list[str]:
        """Models that try a strategy of self-adaptation."""
        return [name for name, model in self.run.models.items() if self.search and strategy in model.strategies]

    def experts_to_adapt(self, model: str, seed: int | str) -> dict[str, str]:
        """Files of the expert of every training task of language models, by task."""
        assert self.search is not None
        return {task: self.expert(model, task, self.search.experts, seed) for task in self.run.text_tasks}

    def experts_to_mix(self, model: str, budget: str, seed: int | str) -> dict[str, str]:
        """Files of the experts of a few-shot adaptation: the model's own, in some budgets with another model's, which
        are those of the first seed that is adapted."""
        own = self.experts_to_adapt(model, seed)
        if budget != CROSS:
            return own
        transfer = self.run.models[model].transfer
        assert transfer is not None
        row = self.run.row_of(transfer.experts_of)
        ordered, (first, *_) = next(iter(self.run.transferred(model).items()))
        theirs = {task: self.transferred_expert(model, task, ordered, first) for task in self.run.text_tasks}
        return own | {f"{row}:{task}": file for task, file in theirs.items()}

    def experts_by_class(self, model: str, seed: int | str) -> dict[str, str]:
        """Files of the expert that answers each class: that of the first training task of the class."""
        files: dict[str, str] = {}
        for task, file in self.experts_to_adapt(model, seed).items():
            files.setdefault(TASKS[task].domain, file)
        return files

    # ---- adapters

    @cached_property
    def adapters(self) -> dict[str, Adapter]:
        """Every adapter of the run, by name."""
        return {adapter.name: adapter for adapter in self._adapters()}

    def of_kind(self, *kinds: Kind) -> list[str]:
        return [name for name, adapter in self.adapters.items() if adapter.kind in kinds]

    def _adapters(self) -> Iterator[Adapter]:
        yield Adapter("base", "base", "base")
        for _, method, task in self.trained:
            yield from self._states(method, task)
        for method in self.transferred_methods:
            for task in self.run.text_tasks:
                yield Adapter(adapter_folder(method, task), "transferred", method, task)
        if self.search is None:
            return
        yield from self._states(CLASSIFIER, "classify")
        yield Adapter(UNIFORM, "uniform", UNIFORM)
        for name in STRATEGIES:
            yield Adapter(name, "dispatch", name)
        main = self.search.budgets[MAIN_BUDGET].shots
        yield Adapter("uniform_mix", "choice", "uniform_mix", candidates=(UNIFORM,), shots=main, chosen_by="shots")
        for budget in self.budgets:
            yield from self._of_budget(budget)
        for method in self.search.compared:
            for state in self.run.states_of(method):
                candidates = tuple(adapter_folder(method, task, state) for task in self.compared_tasks(method))
                for by, shots in (("test", 0), ("shots", main)):
                    name = f"{method}_on_{by}"
                    yield Adapter(
                        adapter_folder(name, state=state), "choice", name,
                        state=state, candidates=candidates, shots=shots, chosen_by=by,
                    )  # fmt: skip

    def _states(self, method: str, task: str) -> Iterator[Adapter]:
        for state in self.run.states_of(method):
            yield Adapter(adapter_folder(method, task, state), "expert", method, task, state)

    def _of_budget(self, budget: str) -> Iterator[Adapter]:
        """The mixes of a budget, the trainings on its shots, and the choices among either."""
        assert self.search is not None
        shots, name = self.budgets[budget].shots, f"few_shot_{budget}"
        mixes = tuple(f"{name}-{configuration}" for configuration in self.search.configurations)
        for mix, configuration in zip(mixes, self.search.configurations, strict=True):
            yield Adapter(mix, "mix", mix, budget=budget, configuration=configuration)
        yield Adapter(name, "choice", name, candidates=mixes, shots=shots, chosen_by="shots")
        on_test = f"{name}_on_test"
        yield Adapter(on_test, "choice", on_test, candidates=mixes, shots=shots, chosen_by="test")
        for method in self.search.trained if self.trains_on_shots(budget) else []:
            choice = f"{method}_{budget}"
            trained = f"{choice}-all"
            yield Adapter(trained, "on_shots", trained, budget=budget, configuration=method)
            yield Adapter(choice, "choice", choice, candidates=(trained,), shots=shots, chosen_by="shots")

    def compared_tasks(self, method: str) -> list[str]:
        """Text tasks whose experts of a method are compared on the unseen ones."""
        tasks = self.run.methods[method].tasks
        return [task for task in self.run.text_tasks if tasks is None or task in tasks]

    def trains_on_shots(self, budget: str) -> bool:
        """Whether methods are trained on the shots of a budget: it limits no search, and needs no other model's
        experts."""
        assert self.search is not None
        return budget in self.search.budgets and self.search.budgets[budget].iterations is None

    def method_of(self, adapter: str) -> str:
        """The method whose trained experts an adapter is made of; `base` for the base model."""
        of = self.adapters[adapter]
        if of.kind in ("mix", "uniform", "transferred"):
            assert self.search is not None
            return self.search.experts
        return of.configuration if of.kind == "on_shots" else of.method

    # ---- adaptation

    @cached_property
    def searches(self) -> list[tuple[str, str, str]]:
        """(model, task, budget) of every few-shot adaptation."""
        return [
            (model, task, name)
            for model in self.adaptive("few-shot")
            for name, budget in self.budgets.items()
            for task in self.unseen(model)
            if budget.tasks is None or task in budget.tasks
            if budget.rows is None or self.run.row_of(model) in budget.rows
        ]

    @cached_property
    def trained_on_shots(self) -> list[tuple[str, str, str]]:
        """(model, task, choice) of every training on shots."""
        return [
            (model, task, f"{method}_{budget}")
            for model, task, budget in self.searches
            if self.search and self.trains_on_shots(budget)
            for method, settings in self.search.trained.items()
            if model in self.run.models_of(method)
            and (settings.tasks is None or task in settings.tasks)
        ]  # fmt: skip

    # ---- cells

    @cached_property
    def cells(self) -> list[Cell]:
        """Every score that a table may need, once.

        The base model on every task (greedy answers know no seed). Every expert, in both states of its training, on the
        task that it was trained on and on those that it is scored on besides. On the unseen tasks: the choices among
        compared experts, the ways of dispatch, few-shot adaptation, training on the shots, and the experts with equal
        weights. Experts of another model on their own task and the unseen ones of its domain.
        """
        return list(dict.fromkeys(self._cells()))  # an expert may be compared, and scored besides

    def _cells(self) -> Iterator[Cell]:
        run, first, adapted = self.run, self.run.seeds[0], self.run.adaptation_seeds
        for model in run.models:
            own = [*run.tasks_of(model), *run.unseen_of(model)]
            yield from self._product([model], ["base"], [task for task in self.benchmarks if task in own], [first])
        for model, method, task in self.trained:
            also = [other for other in run.methods[method].also_on if other in run.unseen_of(model)]
            for state in run.states_of(method):
                yield from self._product(
                    [model], [adapter_folder(method, task, state)], [task, *also], run.seeds_of(method)
                )
        if self.search is None:
            return
        for method in self.search.compared:
            for state in run.states_of(method):
                choices = [adapter_folder(f"{method}_on_{by}", state=state) for by in ("test", "shots")]
                compared = [*choices, *self.adapters[choices[0]].candidates]
                for model in run.models_of(method):
                    yield from self._product([model], compared, self.unseen(model), adapted)
        for strategy in ("prompt", CLASSIFIER):
            for model in self.adaptive(strategy):
                yield from self._product([model], [strategy, f"{strategy}_labels"], self.unseen(model), adapted)
        yield from self._product(self.language_models, ["base"], ["classify"], [first])
        classifiers = [adapter_folder(CLASSIFIER, "classify", state) for state in run.states_of(CLASSIFIER)]
        yield from self._product(self.adaptive(CLASSIFIER), classifiers, ["classify"], adapted)
        for model, task, choice in self.trained_on_shots:
            yield from self._product([model], [choice], [task], adapted)
        for model, task, budget in self.searches:
            choices = [f"few_shot_{budget}", f"few_shot_{budget}_on_test"]
            yield from self._product([model], choices, [task], adapted)
        for model in self.adaptive("few-shot"):
            yield from self._product([model], ["uniform_mix"], self.unseen(model), adapted)
        for model in run.models:
            for method, seeds in run.transferred(model).items():
                for trained_on in run.text_tasks:
                    same = [t for t in self.unseen(model) if TASKS[t].domain == TASKS[trained_on].domain]
                    yield from self._product([model], [f"{method}-{trained_on}"], [trained_on, *same], seeds)

    @staticmethod
    def _product(
        models: Iterable[str], adapters: Iterable[str], tasks: Iterable[str], seeds: Iterable[int]
    ) -> Iterator[Cell]:
        tasks, adapters, seeds = list(tasks), list(adapters), list(seeds)
        return (Cell(m, a, t, s) for m in models for a in adapters for t in tasks for s in seeds)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What a file of scores says of itself (`IDENTITY`)."""
        adapter = self.adapters[cell.adapter]
        of_training = {"method": adapter.method, "trained_on": adapter.trained_on, "state": adapter.state}
        return self.result_identity(cell.model, cell.task, cell.seed) | of_training

    def search_identity(self, model: str, task: str, seed: int, budget: str, configuration: str) -> dict[str, Any]:
        """What the record of a search says of itself."""
        granularity, normalised = CONFIGURATIONS[configuration]
        of_search = {"budget": budget, "granularity": granularity, "normalised": normalised}
        return self.result_identity(model, task, seed) | of_search

    def result_identity(self, model: str, task: str, seed: int) -> dict[str, Any]:
        """What every result says of itself: run, model, task and seed."""
        return {
            "run": self.run.run,
            "model": model,
            "stands_in_for": self.run.models[model].row or "",
            "standin": self.run.standin(model),
            "task": task,
            "seed": seed,
        }

    # ---- files

    def expert(self, model: str, task: str, method: str, seed: int | str, part: str = "") -> str:
        """The weights of an expert: in its selected state, or in the last one (part: `last/`)."""
        folder = paths.EXPERT.of(run=self.run.run, model=model, task=task, method=method, seed=seed)
        return f"{folder}/{part}{paths.WEIGHTS}"

    def transferred_expert(self, model: str, task: str, method: str, seed: int | str) -> str:
        """The weights of an expert of another model, as one of this model."""
        folder = paths.TRANSFER.of(run=self.run.run, model=model, task=task, method=method, seed=seed)
        return f"{folder}/{paths.WEIGHTS}"

    def score_files(self, cells: Iterable[Cell]) -> list[str]:
        return [paths.SCORES.of(run=self.run.run, **cell._asdict()) for cell in cells]

    def candidates(self, cell: Cell) -> list[Cell]:
        """The cells that a choice is made among."""
        return [cell._replace(adapter=name) for name in self.adapters[cell.adapter].candidates]

    def decision_files(self) -> list[str]:
        """Where every way of dispatch says which class each prompt was put into, for the first seed that is adapted."""
        return [
            paths.DECISIONS.of(
                run=self.run.run, model=model, adapter=name, task=task, seed=self.run.adaptation_seeds[0]
            )
            for name in self.of_kind("dispatch")
            for model in self.adaptive(STRATEGIES[name][0])
            for task in self.unseen(model)
        ]

    def search_folders(self) -> list[str]:
        """The folder of every search, for the first seed that is adapted."""
        return [
            self.mix_folder(Cell(model, f"few_shot_{budget}-{configuration}", task, self.run.adaptation_seeds[0]))
            for model, task, budget in self.searches
            for configuration in (self.search.configurations if self.search else ())
        ]

    def mix_folder(self, cell: Cell) -> str:
        """The folder of a mix, or of a training on shots."""
        adapter = self.adapters[cell.adapter]
        names = {"budget": adapter.budget, "configuration": adapter.configuration}
        return paths.MIX.of(run=self.run.run, model=cell.model, task=cell.task, seed=cell.seed, **names)

    def files_to_answer(self, cell: Cell) -> dict[str, str]:
        """The expert of a cell, and the basis that SVF needs; nothing for the base model.

        With the last state of an expert, its best one and the answers of that: they are taken where both are the same.
        """
        adapter = self.adapters[cell.adapter]
        basis = {"basis": paths.BASIS.of(model=cell.model)}
        if adapter.kind == "base":
            return {}
        if adapter.kind in ("mix", "on_shots"):
            return {"expert": f"{self.mix_folder(cell)}/{paths.WEIGHTS}"} | basis
        if adapter.kind == "uniform":
            folder = paths.UNIFORM_MIX.of(run=self.run.run, model=cell.model, seed=cell.seed)
            return {"expert": f"{folder}/{paths.WEIGHTS}"} | basis
        of_training = (cell.model, adapter.trained_on, adapter.method, cell.seed)
        if adapter.kind == "transferred":
            return {"expert": self.transferred_expert(*of_training)} | basis
        point = next(iter(self.run.trained[adapter.method].points().values()))
        files = basis if point.adapter == "svf" else {}
        if adapter.state == "best":
            return files | {"expert": self.expert(*of_training)}
        if "best" in self.run.states_of(adapter.method):
            best = cell._replace(adapter=f"{adapter.method}-{adapter.trained_on}")
            answers = paths.ANSWERS.of(run=self.run.run, **best._asdict())
            files = files | {"best": self.expert(*of_training), "best_answers": answers}
        return files | {"expert": self.expert(*of_training, "last/")}
