# The workflow: every table of the documents, from base models to rendered pages.
#
#   snakemake --cores all                                      the default run, config.yaml
#   snakemake --cores all --configfile config/smollm2.yaml     another run; it replaces config.yaml as a whole
from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


# Snakemake 9.27 limits submissions, and for that looks at all waiting jobs again a second after each look: with every
# job that ends there is one look a second more, until they take the most of a core. Jobs of one machine need no limit.
onstart:
    atomic_write(Path(run_file(RUN)), f"{RUN.model_dump_json(indent=1)}\n")
    if not workflow.non_local_exec:
        workflow.scheduler.job_rate_limiter = None


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        redo_damaged,
        EXPERT_RECORDS,
        DERIVED_RECORDS,
        collect(
            "results/{run}/paper_tables/{table}.{ext}",
            run=RUN.run,
            table=ALL_TABLES,
            ext=["md", "tex", "html", "csv"],
        ),
        collect(
            "results/{run}/figures/{table}.svg",
            run=RUN.run,
            table=ALL_FIGURES,
        ),
        f"results/{RUN.run}/audit.csv",
        f"results/{RUN.run}/claims.csv",
        f"results/{RUN.run}/run.crate.zip",
        f"results/{RUN.run}/report.html",
    localrule: True
