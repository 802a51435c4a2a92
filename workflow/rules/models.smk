# Base models and their singular value decomposition, once a model.


rule model:
    input:
        backbone=lambda wc: (
            f"results/models/{RUN.models[wc.model].backbone}/base"
            if RUN.models[wc.model].source == "pocket:llava-next"
            else []
        ),
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
        code=lambda wc: code(
            "models.py",
            *(
                [
                    "pocket/corpus.py",
                    "pocket/pretrain.py",
                    "pocket/tokenizer.py",
                    *(
                        ["pocket/pictures.py", "pocket/vision.py", "tasks/vqa.py"]
                        if RUN.models[wc.model].backbone
                        else []
                    ),
                    "tasks/classify.py",
                    "tasks/everyday.py",
                    "rollout/engine.py",
                    "rollout/likelihood.py",
                    "rollout/pictures.py",
                ]
                if RUN.models[wc.model].source.startswith("pocket:")
                else []
            ),
        )(wc),
        source=of_model("source"),
        revision=lambda wc: option("revision", RUN.models[wc.model].revision),
        seed=of_model("seed"),
        steps=lambda wc: option("steps", RUN.models[wc.model].pretraining_steps),
        backbone=lambda wc, input: option("backbone", input.backbone or None),
    shell:
        "python -m transformer2 model --source {params.source:q} {params.revision} --seed {params.seed}"
        " {params.steps} {params.backbone} --out {output} --threads {threads} > {log} 2>&1"


rule basis:
    input:
        model=rules.model.output,
    output:
        "results/models/{model}/basis.safetensors",
    log:
        "results/models/{model}/basis.log",
    benchmark:
        "results/models/{model}/basis.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=0,
    params:
        code=code("svf/basis.py"),
        dtype=of_model("dtype"),
    shell:
        "python -m transformer2 basis --model {input.model} --dtype {params.dtype} --out {output}"
        " --threads {threads} > {log} 2>&1"
