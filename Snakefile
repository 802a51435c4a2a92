# Reproduces every table of the Transformer² papers; workflow/Snakefile has the rules.
#
#   snakemake --cores all                                      the default run, config.yaml
#   snakemake --cores all --configfile config/smoke.yaml       a smoke run of three minutes
#   snakemake --cores all --configfile config/smollm2.yaml     another run; it replaces config.yaml as a whole
include: "workflow/Snakefile"


rule default:
    # Snakemake takes no default target from a file that is included.
    default_target: True
    input:
        rules.all.input,
    localrule: True
