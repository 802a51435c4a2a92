# What models and experts are like, beside how they score.


rule spectrum:
    input:
        bases=collect(rules.basis.output, model=RUN.models),
    output:
        "results/{run}/spectra.csv",
    log:
        "results/{run}/spectra.log",
    benchmark:
        "results/{run}/spectra.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("spectrum"),
        bases=lambda wc, input: options(
            "basis", [f"{Path(file).parent.name}={file}" for file in input.bases]
        ),
        whose=whose_models(),
    shell:
        "python -m transformer2 spectrum {params.bases:q} --whose {params.whose:q} --out {output:q} > {log:q} 2>&1"


rule spectrum_figure:
    input:
        spectra=rules.spectrum.output,
    output:
        multiext("results/{run}/figures/{figure}", ".pdf", ".png", ".csv"),
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../report/spectrum.rst",
            category="Figures",
            subcategory="Singular values",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/{run}/figures/{figure}.log",
    benchmark:
        "results/{run}/figures/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=one_of(SPECTRA),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("spectrum-figure"),
        model=lambda wc: SPECTRA[wc.figure],
        out=lambda wc: f"results/{wc.run}/figures/{wc.figure}",
    shell:
        "python -m transformer2 spectrum-figure --spectra {input.spectra:q} --model {params.model:q}"
        " --out {params.out:q} > {log:q} 2>&1"


rule curves:
    input:
        EXPERT_RECORDS,
    output:
        "results/{run}/curves.csv.gz",
    log:
        "results/{run}/curves.log",
    benchmark:
        "results/{run}/curves.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("curves"),
        selections=[str(Path(file).with_name("selection.json")) for file in ALL_EXPERTS],
        whose=whose_models(RUN.standin),
    shell:
        "python -m transformer2 curves {params.selections:q} --whose {params.whose:q} --out {output:q} > {log:q} 2>&1"


rule learning_figure:
    input:
        curves=rules.curves.output,
        scores=rules.collect_scores.output,
    output:
        multiext("results/{run}/figures/{figure}", ".pdf", ".png", ".csv"),
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../report/learning.rst",
            category="Figures",
            subcategory="Learning curves",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/{run}/figures/{figure}.log",
    benchmark:
        "results/{run}/figures/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=one_of(LEARNING),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("learning-figure"),
        model=lambda wc: LEARNING[wc.figure][0],
        method=lambda wc: LEARNING[wc.figure][1],
        told_apart=lambda wc: LEARNING[wc.figure][2],
        out=lambda wc: f"results/{wc.run}/figures/{wc.figure}",
    shell:
        "python -m transformer2 learning-figure --curves {input.curves:q} --scores {input.scores:q}"
        " --model {params.model:q} --method {params.method:q} {params.told_apart:q} --out {params.out:q} > {log:q} 2>&1"


rule illustrate:
    input:
        model=rules.model.output[0].replace("{model}", ILLUSTRATED),
        experts=EXPERT_RECORDS,
        data="results/{run}/data/gsm8k/train.jsonl",
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
        mem_mb=lambda wc, attempt: megabytes(RUN.models[ILLUSTRATED].mem_mb, attempt),
        runtime=10,
        gpu=0,
    params:
        code=code("illustrate"),
        experts=named_folders(
            {
                task: GRID.expert(model, task, method, RUN.seeds[0])
                for model, method, task in GRID.trained
                if ADAPT and (model, method) == (ILLUSTRATED, ADAPT.experts)
            }
        ),
        settings=lambda wc: json.dumps(
            json.loads(whose_models(RUN.standin))[ILLUSTRATED]
            | {"model": ILLUSTRATED, "seed": RUN.seeds[0]}
            | {
                "search": {
                    "shots": ADAPT.budgets["10"].shots,
                    "population": ADAPT.cem.population,
                    "elites": ADAPT.cem.elites,
                    "iterations": RUN.search(
                        "10", ADAPT.configurations[0], next(iter(RUN.unseen))
                    )["iterations"],
                }
            }
        ),
    shell:
        "python -m transformer2 illustrate --model {input.model:q} {params.experts:q} --task gsm8k --data {input.data:q}"
        " --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"


rule schematic:
    input:
        facts=rules.illustrate.output,
    output:
        multiext("results/{run}/figures/{figure}", ".pdf", ".png", ".csv"),
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../report/schematic.rst",
            category="Figures",
            subcategory="The method",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/{run}/figures/{figure}.log",
    benchmark:
        "results/{run}/figures/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=one_of(SCHEMATICS),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("schematic"),
        kind=lambda wc: SCHEMATICS[wc.figure],
        out=lambda wc: f"results/{wc.run}/figures/{wc.figure}",
    shell:
        "python -m transformer2 schematic --kind {params.kind:q} --facts {input.facts:q} --out {params.out:q} > {log:q} 2>&1"
