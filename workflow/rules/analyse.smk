# What models and experts are like, beside how they score.


rule spectrum:
    input:
        bases=collect(rules.basis.output, model=RUN.models),
        code=code("spectrum.py", "frames.py"),
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
        bases=lambda wc, input: " ".join(
            f"--basis {Path(file).parent.name}={file}" for file in input.bases
        ),
        whose=json.dumps(
            {
                name: {
                    "run": RUN.run,
                    "stands_in_for": model.row,
                    "standin": model.standin,  # data do not matter here
                }
                for name, model in RUN.models.items()
            }
        ),
    shell:
        "python -m transformer2 spectrum {params.bases} --whose {params.whose:q} --out {output} > {log} 2>&1"


rule spectrum_figure:
    input:
        spectra=rules.spectrum.output,
        code=code(
            "paper/spectrum_figures.py",
            "paper/figures.py",
            "paper/measured.py",
            "spectrum.py",
        ),
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
        figure="|".join(SPECTRA),
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        model=lambda wc: SPECTRA[wc.figure],
        out=lambda wc: f"results/{wc.run}/figures/{wc.figure}",
    shell:
        "python -m transformer2 spectrum-figure --spectra {input.spectra} --model {params.model}"
        " --out {params.out} > {log} 2>&1"
