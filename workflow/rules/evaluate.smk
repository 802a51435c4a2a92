# Answers and scores are two rules: a new scorer never costs a generation.


rule generate:
    input:
        unpack(lambda wc: GRID.files_to_answer(cell(wc))),
        model=rules.model.output,
        data="results/{run}/data/{task}/test.jsonl",
        pictures=pictures("test"),
    output:
        paths.ANSWERS.pattern,
    log:
        f"{paths.ANSWERS.stem}.log",
    benchmark:
        f"{paths.ANSWERS.stem}.benchmark.tsv"
    wildcard_constraints:
        adapter=one_of(GRID.answering),
    conda:
        ENGINE_ENV
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=4 * 60,
        gpu=of_model("gpus"),
    params:
        code=code("generate"),
        expert=lambda wc, input: option(
            "expert",
            str(Path(input.expert).parent) if "expert" in input.keys() else None,
        ),
        basis=lambda wc, input: option("basis", input.get("basis")),
        best=lambda wc, input: (
            [
                *option("best", Path(input.best).parent),
                *option("best-answers", input.best_answers),
            ]
            if "best" in input.keys()
            else []
        ),
        dtype=of_model("dtype"),
        max_new_tokens=lambda wc: option(
            "max-new-tokens", EVERY_TASK[wc.task].max_new_tokens
        ),
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
        engine=lambda wc: engine(wc.model, [GRID.method_of(wc.adapter)]),
    shell:
        "python -m transformer2 generate --model {input.model:q} {params.expert:q} {params.basis:q} {params.best:q}"
        " --task {wildcards.task:q} --data {input.data:q} --dtype {params.dtype:q} {params.max_new_tokens:q}"
        " --batch-rows {params.batch_rows:q} --out {output:q} --threads {threads} --gpus {resources.gpu} {params.engine:q} > {log:q} 2>&1"


rule score:
    input:
        answers=paths.ANSWERS.pattern,
        data="results/{run}/data/{task}/test.jsonl",
    output:
        paths.SCORES.pattern,
    log:
        f"{paths.SCORES.stem}.log",
    benchmark:
        f"{paths.SCORES.stem}.benchmark.tsv"
    wildcard_constraints:
        adapter=one_of([*GRID.answering, *GRID.of_kind("dispatch")]),
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: megabytes(1500, attempt),
        runtime=60,
        gpu=0,
    params:
        code=code("score"),
        identity=identity,
        risk="--allow-unsandboxed-code" if RUN.allow_unsandboxed_code else "",
    shell:
        "python -m transformer2 score --task {wildcards.task:q} --data {input.data:q} --answers {input.answers:q}"
        " --identity {params.identity:q} --out {output:q} {params.risk:q} > {log:q} 2>&1"


rule collect_scores:
    input:
        scores=GRID.score_files(GRID.cells) if RUN.scores is None else RUN.scores,
        ledger=[] if RUN.scores is None else LEDGER_FILES,
    output:
        "results/{run}/scores.csv.gz",
    log:
        "results/{run}/scores.log",
    benchmark:
        "results/{run}/scores.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("collect" if RUN.scores is None else "import-scores"),
        command=(
            ["collect"] if RUN.scores is None else ["import-scores", "--run", RUN.run]
        ),
    shell:
        "python -m transformer2 {params.command:q} {input.scores:q} --out {output:q} > {log:q} 2>&1"


rule collect_experts:
    input:
        experts=lambda wc: [
            f"{Path(file).parent}/selection.json" for file in ALL_EXPERTS
        ],
    output:
        "results/{run}/experts.csv",
    log:
        "results/{run}/experts.log",
    benchmark:
        "results/{run}/experts.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("experts"),
    shell:
        "python -m transformer2 experts {input.experts:q} --out {output:q} > {log:q} 2>&1"
