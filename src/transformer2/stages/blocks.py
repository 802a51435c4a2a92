"""The stages of a run: what each waits for, and how several processes share its steps.

train           every point of every sweep
select          the expert of every sweep
derive          experts made of experts: of another model, of the backbone, of all in equal parts; bundles
answer          the base model and the experts
adapt           dispatch, few-shot searches, trainings on shots
answer_adapted  what `derive` and `adapt` made
score           all answers
choose          the choices among scored adapters; one for all models
"""

from collections.abc import Iterable
from pathlib import Path

from transformer2 import paths
from transformer2.config import Run
from transformer2.stages.steps import ALL_MODELS, STAGES, Step, Steps

WITH_MODEL = ("train", "derive", "answer", "adapt", "answer_adapted")
"""Stages whose process loads a model."""
IN_BLOCKS = {"train": "train", "answer": "answer", "adapt": "adapt", "answer_adapted": "answer", "score": "score"}
"""Stage whose steps several processes may share -> the setting that says how many (`config.parts.Blocks`)."""


class Stages:
    """The stages of one run."""

    def __init__(self, run: Run):
        self.run = run
        self._steps = Steps(run)
        self.grid = self._steps.grid

    # ---- what Snakemake sees

    def records(self, stage: str, model: str) -> list[str]:
        """The records of all blocks of a stage of a model; none where there is nothing to do."""
        n = self.blocks(stage, model) if self.steps(stage, model) else 0
        return [self.record(stage, model, block, n) for block in range(n)]

    def all_records(self) -> list[str]:
        return [record for stage in STAGES for model in self.models_of(stage) for record in self.records(stage, model)]

    def behind(self, record: str) -> list[Step]:
        """The steps whose results a record tells of."""
        names = paths.RECORD.read(record)
        return self.block(names["stage"], names["model"], int(names["block"]), int(names["blocks"]))

    def record(self, stage: str, model: str, block: int, blocks: int) -> str:
        return paths.RECORD.of(run=self.run.run, stage=stage, model=model, block=block, blocks=blocks)

    def models_of(self, stage: str) -> list[str]:
        return [ALL_MODELS] if stage == "choose" else list(self.run.models)

    def blocks(self, stage: str, model: str) -> int:
        """How many processes share a stage of a model."""
        if stage not in IN_BLOCKS:
            return 1
        asked = getattr(self.run.models[model].blocks, IN_BLOCKS[stage])
        return max(1, min(asked, len({step.group for step in self.steps(stage, model)})))

    def inputs(self, stage: str, model: str) -> list[str]:
        """Files that must be there before a stage of a model can begin."""
        if stage == "choose":
            scores = [record for name in self.run.models for record in self.records("score", name)]
            return scores + self._data(step for step in self.steps(stage, model))
        before: list[tuple[str, str]] = []
        of_model = self.run.models[model]
        match stage:
            case "select":
                before = [("train", model)]
            case "derive":
                others = [of_model.transfer.experts_of] if of_model.transfer else []
                others += [of_model.backbone] if of_model.backbone else []
                before = [("select", name) for name in (model, *others)]
            case "answer":
                before = [("select", model)]
            case "adapt":
                before = [("select", model), ("derive", model)]
            case "answer_adapted":
                before = [("select", model), ("derive", model), ("adapt", model)]
            case "score":
                before = [("answer", model), ("adapt", model), ("answer_adapted", model)]
        made = [record for name, of in before for record in self.records(name, of)]
        return [*self._models(stage, model), *made, *self._data(self.steps(stage, model))]

    def _models(self, stage: str, model: str) -> list[str]:
        """The model that a stage loads, its basis, and those that experts of another one are taken from by."""
        if stage not in WITH_MODEL:
            return []
        transfer = self.run.models[model].transfer
        others = [transfer.experts_of] if stage == "derive" and transfer else []
        bases = [paths.BASIS.of(model=name) for name in (model, *others)]
        return [paths.BASE.of(model=model), *bases]

    @staticmethod
    def _data(steps: Iterable[Step]) -> list[str]:
        """The data that steps read."""
        return list(dict.fromkeys(str(path) for step in steps for path in step.inputs if paths.is_data(path)))

    def results(self) -> frozenset[Path]:
        """Files and whole folders that the steps write, with their manifests, and the manifests of the data that steps
        read, in the folder of the run; of a run whose scores were measured elsewhere, the manifest of these."""
        steps = [step for stage in STAGES for model in self.models_of(stage) for step in self.steps(stage, model)]
        made = [path for step in steps for path in (step.manifest, *step.outputs)]
        made += [step.manifest.parent for step in steps if step.manifest.name == "manifest.json"]
        made += [Path(path).with_suffix(".manifest.json") for path in self._data(steps)]
        made += [] if self.run.scores is None else [Path(paths.IMPORTED.of(run=self.run.run))]
        return frozenset(path.relative_to("results", self.run.run) for path in made)

    # ---- steps

    def block(self, stage: str, model: str, block: int, blocks: int) -> list[Step]:
        """The steps of one of the processes that share a stage, in order."""
        steps = self.steps(stage, model)
        groups = {group: i % blocks for i, group in enumerate(dict.fromkeys(step.group for step in steps))}
        return [step for step in steps if groups[step.group] == block]

    def steps(self, stage: str, model: str) -> list[Step]:
        """All steps of a stage of a model, in an order in which they can be done."""
        return self._steps.all.get((stage, model), [])
