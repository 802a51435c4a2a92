# One split of a task, in the data set's own columns.


rule data:
    input:
        code=code(
            "data.py",
            "tasks/base.py",
            "tasks/{task}.py",
            *(["pocket/corpus.py"] if RUN.data == "pocket" else []),
        ),
    output:
        ensure("results/{run}/data/{task}/{split}.jsonl", non_empty=True),
    log:
        "results/{run}/data/{task}/{split}.log",
    benchmark:
        "results/{run}/data/{task}/{split}.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    params:
        source=RUN.data,
        limit=lambda wc: option("limit", getattr(RUN.tasks[wc.task], wc.split)),
    shell:
        "python -m transformer2 data --task {wildcards.task} --split {wildcards.split} --source {params.source:q}"
        " {params.limit} --out {output} > {log} 2>&1"
