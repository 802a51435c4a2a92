# Experts beyond their training: those of another model, and all of them with equal weights.


rule transfer:
    input:
        expert=lambda wc: expert(
            RUN.models[wc.model].transfer.experts_of,
            wc.task,
            ADAPT.experts,
            RUN.seeds[0] if is_shuffled(wc) else wc.seed,
        ),
        source_basis=lambda wc: rules.basis.output[0].format(
            model=RUN.models[wc.model].transfer.experts_of
        ),
        model=rules.model.output,
        basis=rules.basis.output,
    output:
        f"{TRANSFER}/adapter_model.safetensors",
        f"{TRANSFER}/adapter_config.json",
    log:
        f"{TRANSFER}/transfer.log",
    benchmark:
        f"{TRANSFER}/benchmark.tsv"
    wildcard_constraints:
        method="|".join(sorted(TRANSFERRED)) or "none",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: megabytes(1500, attempt),
        runtime=30,
        gpu=0,
    params:
        code=code("transfer"),
        out=TRANSFER,
        expert=lambda wc, input: Path(input.expert).parent,
        mapping=lambda wc: option("mapping", RUN.models[wc.model].transfer.mapping),
        shuffle=lambda wc: option("shuffle", wc.seed if is_shuffled(wc) else None),
    shell:
        "python -m transformer2 transfer --expert {params.expert} --source-basis {input.source_basis}"
        " --model {input.model} --basis {input.basis} {params.mapping} {params.shuffle} --out {params.out} > {log} 2>&1"


rule mix:
    # alpha_k = 1/K: what few-shot adaptation must beat to be worth its search.
    input:
        unpack(experts_to_adapt),
        model=rules.model.output,
        basis=rules.basis.output,
    output:
        f"{EQUAL}/adapter_model.safetensors",
        f"{EQUAL}/adapter_config.json",
    log:
        f"{EQUAL}/mix.log",
    benchmark:
        f"{EQUAL}/benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=60,
        gpu=of_model("gpus"),
    params:
        code=code("mix"),
        out=EQUAL,
        experts=lambda wc: named_folders(experts_to_adapt(wc)),
        dtype=of_model("dtype"),
    shell:
        "python -m transformer2 mix --model {input.model} {params.experts} --basis {input.basis}"
        " --dtype {params.dtype} --out {params.out} --threads {threads} --gpus {resources.gpu} > {log} 2>&1"
