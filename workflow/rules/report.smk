# Tables of the documents: what they report beside what this run measured.
from importlib import metadata


rule table:
    input:
        ledger="paper_tables/{table}.yaml",
        scores=rules.collect_scores.output,
        templates=sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "paper_tables" / "templates").glob("*.j2")
        ),
        code=code("paper/*.py", "statistics.py"),
    output:
        multiext("results/{run}/paper_tables/{table}", ".md", ".tex", ".csv"),
        html=report(
            "results/{run}/paper_tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "results/{run}/paper_tables/{table}.log",
    benchmark:
        "results/{run}/paper_tables/{table}.benchmark.tsv"
    wildcard_constraints:
        table="|".join(TABLES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        out=lambda wc: f"results/{wc.run}/paper_tables",
    shell:
        "python -m transformer2 table --ledger {input.ledger} --scores {input.scores} --out {params.out} > {log} 2>&1"


rule times:
    input:
        ledger="paper_tables/{table}.yaml",
        timings=rules.gather.output.timings,
        templates=sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "paper_tables" / "templates").glob("*.j2")
        ),
        code=code("paper/*.py", "statistics.py"),
    output:
        multiext("results/{run}/paper_tables/{table}", ".md", ".tex", ".csv"),
        html=report(
            "results/{run}/paper_tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "results/{run}/paper_tables/{table}.log",
    benchmark:
        "results/{run}/paper_tables/{table}.benchmark.tsv"
    wildcard_constraints:
        table="|".join(TIMES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        out=lambda wc: f"results/{wc.run}/paper_tables",
    shell:
        "python -m transformer2 table --ledger {input.ledger} --timings {input.timings} --out {params.out} > {log} 2>&1"


rule figure:
    input:
        ledger="paper_tables/{table}.yaml",
        scores=rules.collect_scores.output,
        code=code("paper/*.py", "statistics.py"),
    output:
        report(
            "results/{run}/figures/{table}.{format}",
            caption="../report/table.rst",
            category="Figures",
            labels={"table": "{table}", "format": "{format}"},
        ),
    log:
        "results/{run}/figures/{table}.{format}.log",
    benchmark:
        "results/{run}/figures/{table}.{format}.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    shell:
        "python -m transformer2 figure --ledger {input.ledger} --scores {input.scores} --out {output} > {log} 2>&1"


rule adaptation_figure:
    input:
        data=lambda wc: rules.gather.output[ADAPTATION_FIGURES[wc.figure][1]],
        code=code("paper/*.py"),
    output:
        report(
            "results/{run}/figures/{figure}.{format}",
            caption="../report/table.rst",
            category="Figures",
            labels={"table": "{figure}", "format": "{format}"},
        ),
    log:
        "results/{run}/figures/{figure}.{format}.log",
    benchmark:
        "results/{run}/figures/{figure}.{format}.benchmark.tsv"
    wildcard_constraints:
        figure="|".join(ADAPTATION_FIGURES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        kind=lambda wc: ADAPTATION_FIGURES[wc.figure][0],
    shell:
        "python -m transformer2 adaptation-figure --kind {params.kind} --data {input.data} --out {output} > {log} 2>&1"


rule crate:
    # What the rest of the workflow made of this run, for repositories and registries.
    input:
        workflow=["Snakefile"]
        + sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "workflow" / "rules").glob("*.smk")
        ),
        scores=rules.collect_scores.output,
        frames=rules.gather.output if ALL_TIMES + ALL_ADAPTATION_FIGURES else [],
        tables=collect(
            "results/{{run}}/paper_tables/{table}.{ext}",
            table=TABLES + ALL_TIMES,
            ext=["md", "tex", "html", "csv"],
        ),
        figures=collect(
            "results/{{run}}/figures/{figure}.{format}",
            figure=TABLES + ALL_ADAPTATION_FIGURES,
            format=["svg", "png"],
        ),
        code=code("paper/crate.py"),
    output:
        "results/{run}/run.crate.zip",
    log:
        "results/{run}/crate.log",
    benchmark:
        "results/{run}/crate.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        settings=RUN.model_dump_json(),
        snakemake=metadata.version("snakemake"),
    shell:
        "python -m transformer2 crate --run results/{wildcards.run} --settings {params.settings:q}"
        " --snakemake {params.snakemake} --out {output} > {log} 2>&1"
