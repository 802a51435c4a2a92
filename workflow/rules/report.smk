# What the documents report beside what this run measured: tables, figures, and the page that weighs them all.


rule table:
    input:
        ledger="paper_tables/{table}.yaml",
        scores=rules.collect_scores.output,
        templates=templates("table"),
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
        templates=templates("table"),
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
            caption="../report/figure.rst",
            category="Figures",
            subcategory="Tables as pictures",
            labels={"figure": "{table}", "format": "{format}"},
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
            caption="../report/adaptation_figure.rst",
            category="Figures",
            subcategory="Self-adaptation",
            labels={"figure": "{figure}", "format": "{format}"},
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


rule html_report:
    input:
        scores=rules.collect_scores.output,
        frames=list(rules.gather.output) if ALL_ADAPTATION_FIGURES else [],
        tables=collect(
            "results/{{run}}/paper_tables/{table}.{ext}",
            table=TABLES + ALL_TIMES,
            ext=["csv", "html"],
        ),
        figures=collect(
            "results/{{run}}/figures/{figure}.svg",
            figure=TABLES + ALL_ADAPTATION_FIGURES,
        ),
        claims="results/{run}/claims.csv",
        audit="results/{run}/audit.csv",
        templates=templates("report"),
        code=code("paper/*.py", "statistics.py"),
    output:
        report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "what came out again"},
        ),
    log:
        "results/{run}/report.log",
    benchmark:
        "results/{run}/report.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        folder=lambda wc: f"results/{wc.run}",
        command=command(),
    shell:
        "python -m transformer2 report --run {params.folder} --command {params.command:q} --out {output} > {log} 2>&1"
