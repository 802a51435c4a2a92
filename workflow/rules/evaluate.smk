# Answers and scores are two stages: a new scorer never costs a generation.


rule answer:
    input:
        inputs_of("answer"),
    output:
        record_of("answer"),
    log:
        log_of("answer"),
    benchmark:
        benchmark_of("answer")
    conda:
        ENGINE_ENV
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=12 * 60,
        gpu=of_model("gpus"),
    params:
        settings=settings_of("answer"),
        run=run_file,
    shell:
        "python -m transformer2 stage answer --run {params.run:q} --model {wildcards.model:q} --block {wildcards.block:q}"
        " --blocks {wildcards.blocks:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule adapt:
    # Two-pass dispatch, few-shot searches, and trainings on the same shots.
    input:
        inputs_of("adapt"),
    output:
        record_of("adapt"),
    log:
        log_of("adapt"),
    benchmark:
        benchmark_of("adapt")
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=24 * 60,
        gpu=of_model("gpus"),
    params:
        settings=settings_of("adapt"),
        run=run_file,
    shell:
        "python -m transformer2 stage adapt --run {params.run:q} --model {wildcards.model:q} --block {wildcards.block:q}"
        " --blocks {wildcards.blocks:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule answer_adapted:
    input:
        inputs_of("answer_adapted"),
    output:
        record_of("answer_adapted"),
    log:
        log_of("answer_adapted"),
    benchmark:
        benchmark_of("answer_adapted")
    conda:
        ENGINE_ENV
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=12 * 60,
        gpu=of_model("gpus"),
    params:
        settings=settings_of("answer_adapted"),
        run=run_file,
    shell:
        "python -m transformer2 stage answer_adapted --run {params.run:q} --model {wildcards.model:q} --block {wildcards.block:q}"
        " --blocks {wildcards.blocks:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule score:
    input:
        inputs_of("score"),
    output:
        record_of("score"),
    log:
        log_of("score"),
    benchmark:
        benchmark_of("score")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: megabytes(1500, attempt),
        runtime=4 * 60,
        gpu=0,
    params:
        settings=settings_of("score"),
        run=run_file,
    shell:
        "python -m transformer2 stage score --run {params.run:q} --model {wildcards.model:q} --block {wildcards.block:q}"
        " --blocks {wildcards.blocks:q} > {log:q} 2>&1"


rule choose:
    input:
        inputs_of("choose"),
    output:
        record_of("choose"),
    log:
        log_of("choose"),
    benchmark:
        benchmark_of("choose")
    wildcard_constraints:
        model=ALL_MODELS,
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=30,
        gpu=0,
    params:
        settings=settings_of("choose"),
        run=run_file,
    shell:
        "python -m transformer2 stage choose --run {params.run:q} --model {wildcards.model:q} > {log:q} 2>&1"


rule collect_scores:
    input:
        scores=SCORE_RECORDS if RUN.scores is None else RUN.scores,
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
            ["collect", *GRID.score_files(GRID.cells)]
            if RUN.scores is None
            else ["import-scores", "--run", RUN.run, RUN.scores]
        ),
    shell:
        "python -m transformer2 {params.command:q} --out {output:q} > {log:q} 2>&1"


rule collect_experts:
    input:
        EXPERT_RECORDS,
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
        experts=[f"{Path(file).parent}/selection.json" for file in ALL_EXPERTS],
    shell:
        "python -m transformer2 experts {params.experts:q} --out {output:q} > {log:q} 2>&1"


rule gather:
    input:
        ADAPT_RECORDS,
    output:
        decisions="results/{run}/decisions.csv.gz",
        timings="results/{run}/timings.csv",
        alphas="results/{run}/alphas.csv.gz",
    log:
        "results/{run}/gather.log",
    benchmark:
        "results/{run}/gather.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("gather"),
        decisions=options("decisions", GRID.decision_files()),
        mixes=options(
            "mixes", [f"{folder}/adaptation.json" for folder in GRID.search_folders()]
        ),
    shell:
        "python -m transformer2 gather {params.decisions:q} {params.mixes:q} --out results/{wildcards.run:q} > {log:q} 2>&1"
