# Experts: every point of a method's sweep is trained, the best on validation is the expert. Others are made of these:
# for another model, or of all with equal weights.
#
# A stage is one process (or several that share its steps in blocks) that loads a model once. Snakemake sees a small
# record of what it made; the files themselves stay where they are when a job fails, and are made again one by one when
# what they are made of changes.


rule train:
    input:
        inputs_of("train"),
    output:
        record_of("train"),
    log:
        log_of("train"),
    benchmark:
        benchmark_of("train")
    conda:
        ENGINE_ENV
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=24 * 60,
        gpu=of_model("gpus"),
    params:
        settings=settings_of("train"),
        run=RUN_FILE,
    shell:
        "python -m transformer2 stage train --run {params.run:q} --model {wildcards.model:q} --block {wildcards.block:q}"
        " --blocks {wildcards.blocks:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule select:
    input:
        inputs_of("select"),
    output:
        record_of("select"),
    log:
        log_of("select"),
    benchmark:
        benchmark_of("select")
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    params:
        settings=settings_of("select"),
        run=RUN_FILE,
    shell:
        "python -m transformer2 stage select --run {params.run:q} --model {wildcards.model:q} > {log:q} 2>&1"


rule derive:
    input:
        inputs_of("derive"),
    output:
        record_of("derive"),
    log:
        log_of("derive"),
    benchmark:
        benchmark_of("derive")
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=4 * 60,
        gpu=of_model("gpus"),
    params:
        settings=settings_of("derive"),
        run=RUN_FILE,
    shell:
        "python -m transformer2 stage derive --run {params.run:q} --model {wildcards.model:q} --threads {threads}"
        " --gpus {resources.gpu} > {log:q} 2>&1"
