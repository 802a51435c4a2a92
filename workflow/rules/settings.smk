# The resolved configuration, which the commands of all other rules read.


rule resolve:
    input:
        redo_stale_settings,
    output:
        paths.RUN.pattern,
    log:
        "results/{run}/run.log",
    benchmark:
        "results/{run}/run.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    params:
        code=code("resolve"),
        settings=SETTINGS,
    shell:
        "python -m transformer2 resolve --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"
