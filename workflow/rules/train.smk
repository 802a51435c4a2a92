# Experts: every point of a method's sweep is trained, the best on validation is the expert. The last states of trainings
# are kept beside the best ones, and chosen among on their own.


rule train:
    input:
        model=rules.model.output,
        basis=rules.basis.output,
        train="results/{run}/data/{task}/train.jsonl",
        validation="results/{run}/data/{task}/validation.jsonl",
        pictures=pictures("train", "validation"),
    output:
        # checkpoint.safetensors, metrics.jsonl and rollouts.jsonl lie beside these and are no outputs on purpose:
        # Snakemake deletes the outputs of a job that was killed, and the training would have to start again.
        f"{paths.SWEEP}/adapter_model.safetensors",
        f"{paths.SWEEP}/adapter_config.json",
        f"{paths.SWEEP}/{LAST}/adapter_model.safetensors",
        f"{paths.SWEEP}/{LAST}/adapter_config.json",
        summary=f"{paths.SWEEP}/training.json",
    log:
        f"{paths.SWEEP}/train.log",
    benchmark:
        f"{paths.SWEEP}/benchmark.tsv"
    conda:
        ENGINE_ENV
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=24 * 60,
        gpu=of_model("gpus"),
    params:
        code=code("train"),
        out=paths.SWEEP.pattern,
        dtype=of_model("dtype"),
        checkpointing=checkpointing,
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
        engine=lambda wc: engine(wc.model, [wc.method]),
        risk="--allow-unsandboxed-code" if RUN.allow_unsandboxed_code else "",
        settings=lambda wc: json.dumps(
            RUN.training(wc.model, wc.method, wc.point)
            | {"max_new_tokens": EVERY_TASK[wc.task].max_new_tokens}
        ),
    shell:
        "python -m transformer2 train --model {input.model:q} --basis {input.basis:q} --task {wildcards.task:q}"
        " --train {input.train:q} --validation {input.validation:q} --settings {params.settings:q}"
        " --seed {wildcards.seed:q} --dtype {params.dtype:q} --batch-rows {params.batch_rows:q} --out {params.out:q}"
        " --threads {threads} --gpus {resources.gpu} {params.checkpointing:q} {params.engine:q} {params.risk:q} > {log:q} 2>&1"


rule select:
    input:
        summaries=lambda wc: collect(
            rules.train.output.summary, point=RUN.trained[wc.method].points(), **wc
        ),
    output:
        adapter=f"{paths.EXPERT}/adapter_model.safetensors",
        config=f"{paths.EXPERT}/adapter_config.json",
        selection=f"{paths.EXPERT}/selection.json",
        last=multiext(
            f"{paths.EXPERT}/{LAST}/",
            "adapter_model.safetensors",
            "adapter_config.json",
            "selection.json",
        ),
    log:
        f"{paths.EXPERT}/select.log",
    benchmark:
        f"{paths.EXPERT}/benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    params:
        code=code("select"),
        out=paths.EXPERT.pattern,
        candidates=lambda wc, input: [
            str(Path(file).parent) for file in input.summaries
        ],
    shell:
        "python -m transformer2 select {params.candidates:q} --out {params.out:q} > {log:q} 2>&1"
