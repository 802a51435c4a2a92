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
        run=RUN_FILE,
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
        run=RUN_FILE,
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
        run=RUN_FILE,
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
        mem_mb=at_least(1500),
        runtime=4 * 60,
        gpu=0,
    params:
        settings=settings_of("score"),
        run=RUN_FILE,
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
        run=RUN_FILE,
    shell:
        "python -m transformer2 stage choose --run {params.run:q} --model {wildcards.model:q} > {log:q} 2>&1"
