# What the documents report beside what this run measured: tables, figures, and the page that weighs them all.
from importlib import metadata


rule table:
    input:
        ledger="paper_tables/{table}.yaml",
        everything=LEDGER_FILES,  # the audit's notes stand below each table
        scores=rules.collect_scores.output,
        experts=rules.collect_experts.output if ALL_EXPERTS else [],
        templates=templates("table"),
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
        table=one_of(TABLES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("table"),
        out=lambda wc: f"results/{wc.run}/paper_tables",
        experts=lambda wc, input: option("experts", input.experts or None),
    shell:
        "python -m transformer2 table --ledger {input.ledger:q} --scores {input.scores:q} {params.experts:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule times:
    input:
        ledger="paper_tables/{table}.yaml",
        timings=rules.gather.output.timings,
        templates=templates("table"),
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
        table=one_of(TIMES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("table"),
        out=lambda wc: f"results/{wc.run}/paper_tables",
    shell:
        "python -m transformer2 table --ledger {input.ledger:q} --timings {input.timings:q} --out {params.out:q} > {log:q} 2>&1"


rule settings:
    input:
        ledger="paper_tables/{table}.yaml",
        templates=templates("table"),
    output:
        multiext("results/{run}/paper_tables/{table}", ".md", ".tex", ".csv"),
        html=report(
            "results/{run}/paper_tables/{table}.html",
            caption="../report/settings.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "results/{run}/paper_tables/{table}.log",
    benchmark:
        "results/{run}/paper_tables/{table}.benchmark.tsv"
    wildcard_constraints:
        table=one_of(SETTINGS),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("settings"),
        methods=json.dumps(
            {name: method.model_dump() for name, method in RUN.methods.items()}
        ),
        out=lambda wc: f"results/{wc.run}/paper_tables",
    shell:
        "python -m transformer2 settings --ledger {input.ledger:q} --run {wildcards.run:q}"
        " --methods {params.methods:q} --out {params.out:q} > {log:q} 2>&1"


rule figure:
    input:
        ledger="paper_tables/{table}.yaml",
        scores=rules.collect_scores.output,
    output:
        multiext("results/{run}/figures/{table}", ".pdf", ".png", ".csv"),
        svg=report(
            "results/{run}/figures/{table}.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="Tables as pictures",
            labels={"figure": "{table}"},
        ),
    log:
        "results/{run}/figures/{table}.log",
    benchmark:
        "results/{run}/figures/{table}.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("figure"),
        out=lambda wc: f"results/{wc.run}/figures/{wc.table}",
    shell:
        "python -m transformer2 figure --ledger {input.ledger:q} --scores {input.scores:q} --out {params.out:q} > {log:q} 2>&1"


rule adaptation_figure:
    input:
        data=lambda wc: rules.gather.output[ADAPTATION_FIGURES[wc.figure][1]],
    output:
        multiext("results/{run}/figures/{figure}", ".pdf", ".png", ".csv"),
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../report/adaptation_figure.rst",
            category="Figures",
            subcategory="Self-adaptation",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/{run}/figures/{figure}.log",
    benchmark:
        "results/{run}/figures/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=one_of(ADAPTATION_FIGURES),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("adaptation-figure"),
        kind=lambda wc: ADAPTATION_FIGURES[wc.figure][0],
        out=lambda wc: f"results/{wc.run}/figures/{wc.figure}",
    shell:
        "python -m transformer2 adaptation-figure --kind {params.kind:q} --data {input.data:q} --out {params.out:q}"
        " > {log:q} 2>&1"


rule study:
    input:
        scores=rules.collect_scores.output,
    output:
        multiext("results/{run}/figures/study", ".pdf", ".png", ".csv", ".md"),
        svg=report(
            "results/{run}/figures/study.svg",
            caption="../report/study.rst",
            category="Figures",
            subcategory="Methods compared",
            labels={"figure": "study"},
        ),
    log:
        "results/{run}/figures/study.log",
    benchmark:
        "results/{run}/figures/study.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("study"),
        out=lambda wc: f"results/{wc.run}/figures/study",
        reference=RUN.reference,
    shell:
        "python -m transformer2 study --scores {input.scores:q} --reference {params.reference:q} --out {params.out:q}"
        " > {log:q} 2>&1"


rule audit:
    input:
        LEDGER_FILES,
    output:
        "results/{run}/audit.csv",
        report(
            "results/{run}/audit.md",
            caption="../report/audit.rst",
            category="Audit",
            labels={"page": "the documents against themselves"},
        ),
    log:
        "results/{run}/audit.log",
    benchmark:
        "results/{run}/audit.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("audit"),
        out=lambda wc: f"results/{wc.run}/audit",
    shell:
        "python -m transformer2 audit --out {params.out:q} > {log:q} 2>&1"


rule claims:
    input:
        LEDGER_FILES,
        frames=[
            rules.collect_scores.output,
            rules.gather.output if ALL_ADAPTATION_FIGURES else [],
            rules.spectrum.output if ALL_SPECTRA else [],
        ],
    output:
        "results/{run}/claims.csv",
        report(
            "results/{run}/claims.md",
            caption="../report/claims.rst",
            category="Claims",
            labels={"page": "the documents' sentences"},
        ),
    log:
        "results/{run}/claims.log",
    benchmark:
        "results/{run}/claims.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("claims"),
        out=lambda wc: f"results/{wc.run}/claims",
    shell:
        "python -m transformer2 claims {input.frames:q} --out {params.out:q} > {log:q} 2>&1"


rule html_report:
    input:
        scores=rules.collect_scores.output,
        frames=list(rules.gather.output) if ALL_ADAPTATION_FIGURES else [],
        tables=collect(
            "results/{{run}}/paper_tables/{table}.{ext}",
            table=ALL_TABLES,
            ext=["csv", "html"],
        ),
        figures=collect(
            "results/{{run}}/figures/{figure}.{format}",
            figure=ALL_FIGURES,
            format=["pdf", "svg", "csv"],
        ),
        claims=rules.claims.output,
        audit=rules.audit.output,
        templates=templates("report"),
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
        code=code("report"),
        folder=lambda wc: f"results/{wc.run}",
        command=command(),
    shell:
        "python -m transformer2 report {input.tables:q} {input.figures:q} {input.frames:q} --run {params.folder:q}"
        " --command {params.command:q} --out {output:q} > {log:q} 2>&1"


rule crate:
    # What the rest of the workflow made of this run, for repositories and registries.
    input:
        workflow=["Snakefile"]
        + sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "workflow" / "rules").glob("*.smk")
        ),
        frames=[
            rules.collect_scores.output,
            rules.gather.output if ALL_ADAPTATION_FIGURES else [],
            rules.spectrum.output if ALL_SPECTRA else [],
        ],
        tables=collect(
            "results/{{run}}/paper_tables/{table}.{ext}",
            table=ALL_TABLES,
            ext=["md", "tex", "html", "csv"],
        ),
        figures=collect(
            "results/{{run}}/figures/{figure}.{format}",
            figure=ALL_FIGURES,
            format=["pdf", "svg", "png", "csv"],
        ),
        pages=[rules.audit.output, rules.claims.output, rules.html_report.output],
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
        code=code("crate"),
        settings=RUN.model_dump_json(),
        snakemake=metadata.version("snakemake"),
    shell:
        "python -m transformer2 crate {input.frames:q} {input.tables:q} {input.figures:q} {input.pages:q}"
        " --run results/{wildcards.run:q} --settings {params.settings:q} --snakemake {params.snakemake:q} --out {output:q} > {log:q} 2>&1"
