# Answers and scores are two rules: a new scorer never costs a generation.


rule generate:
    input:
        unpack(expert_files),
        model=rules.model.output,
        data="results/{run}/data/{task}/test.jsonl",
        pictures=pictures("test"),
    output:
        f"{ANSWERS}.jsonl",
    log:
        f"{ANSWERS}.log",
    benchmark:
        f"{ANSWERS}.benchmark.tsv"
    wildcard_constraints:
        adapter="|".join([*ADAPTERS, *MIXES, *FEW_SHOT_TRAINED]),
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
            f"--best {Path(input.best).parent} --best-answers {input.best_answers}"
            if "best" in input.keys()
            else ""
        ),
        dtype=of_model("dtype"),
        max_new_tokens=lambda wc: option(
            "max-new-tokens", EVERY_TASK[wc.task].max_new_tokens
        ),
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
        engine=lambda wc: engine(wc.model, [method_of(wc.adapter)]),
    shell:
        "python -m transformer2 generate --model {input.model} {params.expert} {params.basis} {params.best}"
        " --task {wildcards.task} --data {input.data} --dtype {params.dtype} {params.max_new_tokens}"
        " --batch-rows {params.batch_rows} --out {output} --threads {threads} --gpus {resources.gpu} {params.engine} > {log} 2>&1"


rule score:
    input:
        answers=f"{ANSWERS}.jsonl",
        data="results/{run}/data/{task}/test.jsonl",
    output:
        f"{SCORES}.json",
    log:
        f"{SCORES}.log",
    benchmark:
        f"{SCORES}.benchmark.tsv"
    wildcard_constraints:
        adapter="|".join([*ADAPTERS, *MIXES, *FEW_SHOT_TRAINED, *STRATEGIES]),
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
        "python -m transformer2 score --task {wildcards.task} --data {input.data} --answers {input.answers}"
        " --identity {params.identity:q} --out {output} {params.risk} > {log} 2>&1"


rule collect_scores:
    input:
        scores=RUN.scores or all_scores,
        ledger=LEDGER_FILES if RUN.scores else [],
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
        code=code("import-scores" if RUN.scores else "collect"),
        command=f"import-scores --run {RUN.run}" if RUN.scores else "collect",
    shell:
        "python -m transformer2 {params.command} {input.scores:q} --out {output} > {log} 2>&1"


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
        "python -m transformer2 experts {input.experts} --out {output} > {log} 2>&1"
