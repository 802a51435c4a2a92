# Experts beyond their training: those of another model, and all of them with equal weights.


rule transfer:
    input:
        expert=lambda wc: GRID.expert(
            RUN.models[wc.model].transfer.experts_of,
            wc.task,
            ADAPT.experts,
            RUN.seeds[0] if GRID.is_shuffled(wc.method) else wc.seed,
        ),
        source_basis=lambda wc: rules.basis.output[0].format(
            model=RUN.models[wc.model].transfer.experts_of
        ),
        model=rules.model.output,
        basis=rules.basis.output,
    output:
        f"{paths.TRANSFER}/adapter_model.safetensors",
        f"{paths.TRANSFER}/adapter_config.json",
    log:
        f"{paths.TRANSFER}/transfer.log",
    benchmark:
        f"{paths.TRANSFER}/benchmark.tsv"
    wildcard_constraints:
        method=one_of(GRID.transferred_methods),
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: megabytes(1500, attempt),
        runtime=30,
        gpu=0,
    params:
        code=code("transfer"),
        out=paths.TRANSFER.pattern,
        expert=lambda wc, input: Path(input.expert).parent,
        mapping=lambda wc: option("mapping", RUN.models[wc.model].transfer.mapping),
        shuffle=lambda wc: option(
            "shuffle", wc.seed if GRID.is_shuffled(wc.method) else None
        ),
    shell:
        "python -m transformer2 transfer --expert {params.expert:q} --source-basis {input.source_basis:q}"
        " --model {input.model:q} --basis {input.basis:q} {params.mapping:q} {params.shuffle:q} --out {params.out:q} > {log:q} 2>&1"


rule mix:
    # alpha_k = 1/K: what few-shot adaptation must beat to be worth its search.
    input:
        unpack(lambda wc: GRID.experts_to_adapt(wc.model, wc.seed)),
        model=rules.model.output,
        basis=rules.basis.output,
    output:
        f"{paths.UNIFORM_MIX}/adapter_model.safetensors",
        f"{paths.UNIFORM_MIX}/adapter_config.json",
    log:
        f"{paths.UNIFORM_MIX}/mix.log",
    benchmark:
        f"{paths.UNIFORM_MIX}/benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=60,
        gpu=of_model("gpus"),
    params:
        code=code("mix"),
        out=paths.UNIFORM_MIX.pattern,
        experts=lambda wc: named_folders(GRID.experts_to_adapt(wc.model, wc.seed)),
        dtype=of_model("dtype"),
    shell:
        "python -m transformer2 mix --model {input.model:q} {params.experts:q} --basis {input.basis:q}"
        " --dtype {params.dtype:q} --out {params.out:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"
