# What the papers report beside what this run measured: frames, tables, figures, and the page that weighs them all.
# One process makes all of a kind; which there are, and what they read, is told by `report.contents`.
from importlib import metadata

FRAMES = [f"results/{{run}}/{name}" for name in CONTENTS.frames]


rule frames:
    input:
        settings_at_start,
        sources=(
            [*STAGES.all_records(), *collect(paths.BASIS.pattern, model=RUN.models)]
            if RUN.scores is None
            else RUN.scores
        ),
        ledger=[] if RUN.scores is None else LEDGER_FILES,
    output:
        FRAMES,
    log:
        "results/{run}/frames.log",
    benchmark:
        "results/{run}/frames.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("frames"),
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
    shell:
        "python -m transformer2 frames --run {params.run:q} > {log:q} 2>&1"


rule illustrate:
    input:
        settings_at_start,
        files=illustrated if CONTENTS.reads("illustration") else [],
    output:
        "results/{run}/illustration.json",
    log:
        "results/{run}/illustration.log",
    benchmark:
        "results/{run}/illustration.benchmark.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=at_least(1500),
        runtime=10,
        gpu=0,
    params:
        code=code("illustrate"),
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
    shell:
        "python -m transformer2 illustrate --run {params.run:q} --out {output:q} > {log:q} 2>&1"


rule tables:
    input:
        frames=FRAMES,
        ledger=LEDGER_FILES,
        templates=templates("table"),
    output:
        [f"results/{{run}}/{file}" for file in CONTENTS.table_files("md", "tex", "csv")],
        [
            shown(
                f"paper_tables/{table.name}.html",
                "settings" if table.kind == "settings" else "table",
                "Tables",
                labels={"table": table.name},
            )
            for table in CONTENTS.tables
        ],
    log:
        "results/{run}/tables.log",
    benchmark:
        "results/{run}/tables.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    params:
        code=code("tables"),
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
    shell:
        "python -m transformer2 tables --run {params.run:q} > {log:q} 2>&1"


rule figures:
    input:
        frames=FRAMES,
        illustration=(rules.illustrate.output if CONTENTS.reads("illustration") else []),
        ledger=LEDGER_FILES,
    output:
        [
            f"results/{{run}}/{file}"
            for file in CONTENTS.figure_files("pdf", "png", "csv", "md")
        ],
        [
            shown(
                f"figures/{figure.name}.svg",
                figure.about.caption,
                "Figures",
                subcategory=figure.about.group,
                labels={"figure": figure.name},
            )
            for figure in CONTENTS.figures
        ],
    log:
        "results/{run}/figures.log",
    benchmark:
        "results/{run}/figures.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    params:
        code=code("figures"),
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
    shell:
        "python -m transformer2 figures --run {params.run:q} > {log:q} 2>&1"


rule verdicts:
    # On the papers' gains and claims, by the frames; and on the papers themselves.
    input:
        frames=FRAMES,
        ledger=LEDGER_FILES,
        paper=PAPER_RUN,
    output:
        "results/{run}/audit.csv",
        "results/{run}/claims.csv",
        "results/{run}/coverage.csv",
        "results/{run}/verdicts.csv",
        "results/{run}/verdicts-pooled.csv",
        shown(
            "verdicts.md",
            "verdicts",
            "Verdicts",
            labels={"page": "the papers' gains"},
        ),
        shown(
            "audit.md",
            "audit",
            "Audit",
            labels={"page": "the papers against themselves"},
        ),
        shown("claims.md", "claims", "Claims", labels={"page": "the papers' claims"}),
    log:
        "results/{run}/verdicts.log",
    benchmark:
        "results/{run}/verdicts.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("verdicts"),
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
    shell:
        "python -m transformer2 verdicts --run {params.run:q} --paper {input.paper:q} > {log:q} 2>&1"


rule html_report:
    input:
        frames=FRAMES,
        tables=rules.tables.output,
        figures=rules.figures.output,
        verdicts=rules.verdicts.output,
        templates=templates("report"),
        paper=PAPER_RUN,
    output:
        shown("report.html", "report", "Report", labels={"page": "the reproduction"}),
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
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
        command=command(),
    shell:
        "python -m transformer2 report --run {params.run:q} --command {params.command:q} --paper {input.paper:q}"
        " > {log:q} 2>&1"


rule crate:
    # What the rest of the workflow made of this run, for repositories and registries.
    input:
        workflow=workflow_files(),
        page=rules.html_report.output,
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
        run=RUN_FILE,
        settings=SETTINGS_OF_RESULTS,
        root=relpath(ROOT),
        snakemake=metadata.version("snakemake"),
    shell:
        "python -m transformer2 crate --run {params.run:q} --root {params.root:q} --snakemake {params.snakemake:q}"
        " > {log:q} 2>&1"
