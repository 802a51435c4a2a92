# One split of a task, in the data set's own columns.


rule data:
    output:
        rows=ensure("results/{run}/data/{task}/{split}.jsonl", non_empty=True),
    log:
        "results/{run}/data/{task}/{split}.log",
    benchmark:
        "results/{run}/data/{task}/{split}.benchmark.tsv"
    wildcard_constraints:
        task=one_of(
            [
                task
                for task in STAGES.grid.benchmarks
                if task not in configuration.VISION_TASKS
            ]
        ),
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=at_least(1000),
        runtime=120,
        gpu=0,
    params:
        code=code("data"),
        source=RUN.data,
        limit=lambda wc: option("limit", getattr(RUN.data_of[wc.task], wc.split)),
        revision=lambda wc: option("revision", RUN.data_of[wc.task].revision),
    shell:
        "python -m transformer2 data --task {wildcards.task:q} --split {wildcards.split:q} --source {params.source:q}"
        " {params.limit:q} {params.revision:q} --out {output.rows:q} > {log:q} 2>&1"


use rule data as data_with_pictures with:
    output:
        rows=ensure("results/{run}/data/{task}/{split}.jsonl", non_empty=True),
        pictures="results/{run}/data/{task}/{split}.images.zip",
    wildcard_constraints:
        task=one_of(configuration.VISION_TASKS),


rule classes:
    input:
        **{
            task: f"results/{{run}}/data/{task}/{{split}}.jsonl"
            for task in RUN.text_tasks
        },
    output:
        "results/{run}/data/classify/{split}.jsonl",
    log:
        "results/{run}/data/classify/{split}.log",
    benchmark:
        "results/{run}/data/classify/{split}.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("classes"),
        rows=rows_of_tasks,
        limit=lambda wc: option("limit", getattr(RUN.adaptation.prompts, wc.split)),
    shell:
        "python -m transformer2 classes {params.rows:q} --split {wildcards.split:q} {params.limit:q} --out {output:q}"
        " > {log:q} 2>&1"
