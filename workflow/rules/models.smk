# Base models and their singular value decomposition, once a model.
BASIS = "results/models/{model}/basis.safetensors"
IN_BLOCKS = [name for name, model in RUN.models.items() if model.basis_blocks > 1]
IN_ONE = [name for name in RUN.models if name not in IN_BLOCKS]


rule model:
    input:
        backbone=base_of_backbone,
    output:
        directory("results/models/{model}/base"),
    log:
        "results/models/{model}/model.log",
    benchmark:
        "results/models/{model}/model.benchmark.tsv"
    priority: 10
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=120,
        gpu=0,
    params:
        code=code("model"),
        source=of_model("source"),
        revision=lambda wc: option("revision", RUN.models[wc.model].revision),
        seed=of_model("seed"),
        steps=lambda wc: option("steps", RUN.models[wc.model].pretraining_steps),
        backbone=lambda wc, input: option("backbone", input.backbone or None),
    shell:
        "python -m transformer2 model --source {params.source:q} {params.revision:q} --seed {params.seed:q}"
        " {params.steps:q} {params.backbone:q} --out {output:q} --threads {threads} > {log:q} 2>&1"


rule basis:
    input:
        model=rules.model.output,
    output:
        BASIS,
    log:
        "results/models/{model}/basis.log",
    benchmark:
        "results/models/{model}/basis.benchmark.tsv"
    wildcard_constraints:
        model=one_of(IN_ONE),
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=0,
    params:
        code=code("basis"),
        dtype=of_model("dtype"),
    shell:
        "python -m transformer2 basis --model {input.model:q} --dtype {params.dtype:q} --out {output:q}"
        " --threads {threads} > {log:q} 2>&1"


rule basis_block:
    input:
        model=rules.model.output,
    output:
        temp("results/models/{model}/basis/{block}-of-{blocks}.safetensors"),
    log:
        "results/models/{model}/basis/{block}-of-{blocks}.log",
    benchmark:
        "results/models/{model}/basis/{block}-of-{blocks}.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=12 * 60,
        gpu=0,
    params:
        code=code("basis"),
        dtype=of_model("dtype"),
    shell:
        "python -m transformer2 basis --model {input.model:q} --dtype {params.dtype:q} --out {output:q}"
        " --block {wildcards.block:q} --blocks {wildcards.blocks:q} --threads {threads} > {log:q} 2>&1"


rule join_bases:
    input:
        blocks_of_basis,
    output:
        BASIS,
    log:
        "results/models/{model}/basis.log",
    benchmark:
        "results/models/{model}/basis.benchmark.tsv"
    wildcard_constraints:
        model=one_of(IN_BLOCKS),
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=60,
        gpu=0,
    params:
        code=code("join-bases"),
    shell:
        "python -m transformer2 join-bases {input:q} --out {output:q} > {log:q} 2>&1"
