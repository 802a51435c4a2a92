# Answers and scores are two rules: a new scorer never costs a generation.

ANSWERS = "results/{run}/generations/{model}/{adapter}/{task}/seed{seed}"
SCORES = "results/{run}/scores/{model}/{adapter}/{task}/seed{seed}"


def expert_files(wildcards):
    """The expert of an adapter, and the basis that SVF needs; nothing for the base model."""
    method, trained_on = ADAPTERS[wildcards.adapter]
    if method == "base":
        return {}
    folder = EXPERT.format(
        run=wildcards.run,
        model=wildcards.model,
        task=trained_on,
        method=method,
        seed=wildcards.seed,
    )
    files = {"expert": f"{folder}/adapter_model.safetensors"}
    if next(iter(POINTS[method].values())).adapter == "svf":
        files["basis"] = f"results/models/{wildcards.model}/basis.safetensors"
    return files


def identity(wildcards):
    """What a file of scores says of itself."""
    method, trained_on = ADAPTERS[wildcards.adapter]
    model = RUN.models[wildcards.model]
    return json.dumps(
        {
            "run": RUN.run,
            "model": wildcards.model,
            "stands_in_for": model.row,
            "standin": model.standin,
            "method": method,
            "trained_on": trained_on,
            "task": wildcards.task,
            "seed": int(wildcards.seed),
        }
    )


def all_scores(wildcards):
    """The base model on every task (greedy answers know no seed), and every expert on the task it was trained on."""
    base = collect(
        f"{SCORES}.json",
        run=RUN.run,
        model=RUN.models,
        adapter="base",
        task=RUN.tasks,
        seed=RUN.seeds[0],
    )
    experts = [
        f"{SCORES}.json".format(
            run=RUN.run,
            model=model,
            adapter=f"{method}-{task}",
            task=task,
            seed=seed,
        )
        for model in RUN.models
        for method in RUN.methods
        for task in RUN.tasks
        for seed in RUN.seeds
    ]
    return base + experts


rule generate:
    input:
        unpack(expert_files),
        model=rules.model.output,
        data="results/{run}/data/{task}/test.jsonl",
        code=code(
            "evaluation.py",
            "svf/*.py",
            "rollout/*.py",
            "models.py",
            "tasks/base.py",
            "tasks/{task}.py",
        ),
    output:
        f"{ANSWERS}.jsonl",
    log:
        f"{ANSWERS}.log",
    benchmark:
        f"{ANSWERS}.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=4 * 60,
        gpu=of_model("gpus"),
    params:
        expert=lambda wc, input: option(
            "expert",
            str(Path(input.expert).parent) if "expert" in input.keys() else None,
        ),
        basis=lambda wc, input: option("basis", input.get("basis")),
        dtype=of_model("dtype"),
        max_new_tokens=lambda wc: option(
            "max-new-tokens", RUN.tasks[wc.task].max_new_tokens
        ),
        batch_rows=RUN.generation_batch,
    shell:
        "python -m transformer2 generate --model {input.model} {params.expert} {params.basis}"
        " --task {wildcards.task} --data {input.data} --dtype {params.dtype} {params.max_new_tokens}"
        " --batch-rows {params.batch_rows} --out {output} --threads {threads} > {log} 2>&1"


rule score:
    input:
        answers=rules.generate.output,
        data="results/{run}/data/{task}/test.jsonl",
        code=code("evaluation.py", "sandbox.py", "tasks/base.py", "tasks/{task}.py"),
    output:
        f"{SCORES}.json",
    log:
        f"{SCORES}.log",
    benchmark:
        f"{SCORES}.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1500,
        runtime=60,
        gpu=0,
    params:
        identity=identity,
    shell:
        "python -m transformer2 score --task {wildcards.task} --data {input.data} --answers {input.answers}"
        " --identity {params.identity:q} --out {output} {RISK} > {log} 2>&1"


rule collect_scores:
    input:
        scores=all_scores,
    output:
        "results/{run}/scores.csv.gz",
    log:
        "results/{run}/scores.log",
    benchmark:
        "results/{run}/scores.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    shell:
        "python -m transformer2 collect {input.scores} --out {output} > {log} 2>&1"
