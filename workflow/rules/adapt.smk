# Self-adaptation on the unseen tasks: two-pass dispatch, few-shot search over mixes, and the choice among experts.


rule dispatch:
    input:
        unpack(experts_by_class),
        classifier=lambda wc: (
            GRID.expert(wc.model, "classify", "cls", wc.seed)
            if configuration.STRATEGIES[wc.adapter][0] == "cls"
            else []
        ),
        model=rules.model.output,
        basis=rules.basis.output,
        data="results/{run}/data/{task}/test.jsonl",
    output:
        answers=paths.ANSWERS.pattern,
        decisions=paths.DECISIONS.pattern,
    log:
        f"{paths.ANSWERS.stem}.log",
    benchmark:
        f"{paths.ANSWERS.stem}.benchmark.tsv"
    wildcard_constraints:
        adapter=one_of(GRID.of_kind("dispatch")),
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=4 * 60,
        gpu=of_model("gpus"),
    params:
        code=code("dispatch"),
        experts=lambda wc: named_folders(GRID.experts_by_class(wc.model, wc.seed)),
        classifier=lambda wc, input: option(
            "classifier", Path(input.classifier).parent if input.classifier else None
        ),
        first_pass=lambda wc: configuration.STRATEGIES[wc.adapter][1],
        identity=identity,
        dtype=of_model("dtype"),
        max_new_tokens=lambda wc: option(
            "max-new-tokens", EVERY_TASK[wc.task].max_new_tokens
        ),
        class_tokens=ADAPT and ADAPT.class_tokens,
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
    shell:
        "python -m transformer2 dispatch --model {input.model:q} {params.experts:q} {params.classifier:q}"
        " --basis {input.basis:q} --first-pass {params.first_pass:q} --task {wildcards.task:q} --data {input.data:q}"
        " --identity {params.identity:q} --dtype {params.dtype:q} {params.max_new_tokens:q}"
        " --class-tokens {params.class_tokens:q} --batch-rows {params.batch_rows:q} --decisions {output.decisions:q}"
        " --out {output.answers:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule carry_over:
    # The experts of a vision-language model on tasks of text are those of its backbone.
    input:
        adapter=lambda wc: GRID.expert(
            RUN.models[wc.model].backbone, wc.task, wc.method, wc.seed
        ),
        last=lambda wc: GRID.expert(
            RUN.models[wc.model].backbone, wc.task, wc.method, wc.seed, f"{LAST}/"
        ),
    output:
        adapter=f"{paths.EXPERT}/adapter_model.safetensors",
        config=f"{paths.EXPERT}/adapter_config.json",
        last=multiext(
            f"{paths.EXPERT}/{LAST}/",
            "adapter_model.safetensors",
            "adapter_config.json",
        ),
    log:
        f"{paths.EXPERT}/carry_over.log",
    benchmark:
        f"{paths.EXPERT}/benchmark.tsv"
    wildcard_constraints:
        model=one_of(set(RUN.models) - set(GRID.language_models)),
        task=one_of(RUN.text_tasks),
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("carry-over"),
        expert=lambda wc, input: Path(input.adapter).parent,
        out=paths.EXPERT.pattern,
    shell:
        "(python -m transformer2 carry-over --expert {params.expert:q} --out {params.out:q}"
        " && python -m transformer2 carry-over --expert {params.expert:q}/last --out {params.out:q}/last) > {log:q} 2>&1"


ruleorder: carry_over > select


rule adapt:
    input:
        unpack(lambda wc: GRID.experts_to_mix(wc.model, wc.budget, wc.seed)),
        model=rules.model.output,
        basis=rules.basis.output,
        data="results/{run}/data/{task}/test.jsonl",
        pictures=pictures("test"),
    output:
        f"{paths.MIX}/adapter_model.safetensors",
        f"{paths.MIX}/adapter_config.json",
        f"{paths.MIX}/adaptation.json",
    log:
        f"{paths.MIX}/adapt.log",
    benchmark:
        f"{paths.MIX}/benchmark.tsv"
    wildcard_constraints:
        configuration=one_of(configuration.CONFIGURATIONS),
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=12 * 60,
        gpu=of_model("gpus"),
    params:
        code=code("adapt"),
        out=paths.MIX.pattern,
        experts=lambda wc: named_folders(
            GRID.experts_to_mix(wc.model, wc.budget, wc.seed)
        ),
        shots=lambda wc: GRID.budgets[wc.budget].shots,
        settings=lambda wc: json.dumps(RUN.search(wc.budget, wc.configuration, wc.task)),
        identity=lambda wc: json.dumps(
            GRID.search_identity(
                wc.model, wc.task, int(wc.seed), wc.budget, wc.configuration
            )
        ),
        dtype=of_model("dtype"),
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
        risk="--allow-unsandboxed-code" if RUN.allow_unsandboxed_code else "",
    shell:
        "python -m transformer2 adapt --model {input.model:q} {params.experts:q} --basis {input.basis:q}"
        " --task {wildcards.task:q} --shots {input.data:q} --n {params.shots:q} --settings {params.settings:q}"
        " --identity {params.identity:q} --seed {wildcards.seed:q} --dtype {params.dtype:q}"
        " --batch-rows {params.batch_rows:q} --out {params.out:q} --threads {threads} --gpus {resources.gpu} {params.risk:q} > {log:q} 2>&1"


rule train_on_shots:
    # What few-shot adaptation is compared with: a method trained on the same shots (Table 8).
    input:
        model=rules.model.output,
        data="results/{run}/data/{task}/test.jsonl",
        pictures=pictures("test"),
    output:
        # As for `train`, the checkpoint beside these is no output.
        f"{paths.MIX}/adapter_model.safetensors",
        f"{paths.MIX}/adapter_config.json",
        f"{paths.MIX}/training.json",
    log:
        f"{paths.MIX}/train.log",
    benchmark:
        f"{paths.MIX}/benchmark.tsv"
    wildcard_constraints:
        configuration=one_of(ADAPT.trained if ADAPT else []),
    conda:
        "../../envs/core.yaml"
    threads: of_model("threads")
    resources:
        mem_mb=memory,
        runtime=4 * 60,
        gpu=of_model("gpus"),
    params:
        code=code("train"),
        out=paths.MIX.pattern,
        dtype=of_model("dtype"),
        checkpointing=checkpointing,
        batch_rows=lambda wc: RUN.batch_rows(wc.model),
        shots=lambda wc: ADAPT.budgets[wc.budget].shots,
        risk="--allow-unsandboxed-code" if RUN.allow_unsandboxed_code else "",
        settings=lambda wc: json.dumps(
            RUN.training(wc.model, wc.configuration, "single")
            | {
                "batch_size": ADAPT.budgets[wc.budget].shots,
                "max_new_tokens": EVERY_TASK[wc.task].max_new_tokens,
            }
        ),
    shell:
        "python -m transformer2 train --model {input.model:q} --task {wildcards.task:q} --train {input.data:q}"
        " --validation {input.data:q} --shots {params.shots:q} --settings {params.settings:q} --seed {wildcards.seed:q}"
        " --dtype {params.dtype:q} --batch-rows {params.batch_rows:q} --out {params.out:q} --threads {threads} --gpus {resources.gpu} {params.risk:q}"
        " {params.checkpointing:q} > {log:q} 2>&1"


rule choose:
    input:
        scores=lambda wc: GRID.score_files(GRID.candidates(cell(wc))),
        adaptation=lambda wc: [
            f"{GRID.mix_folder(candidate)}/adaptation.json"
            for candidate in GRID.candidates(cell(wc))
            if GRID.adapters[candidate.adapter].kind == "mix"
        ],
        data="results/{run}/data/{task}/test.jsonl",
    output:
        paths.SCORES.pattern,
    log:
        f"{paths.SCORES.stem}.log",
    benchmark:
        f"{paths.SCORES.stem}.benchmark.tsv"
    wildcard_constraints:
        adapter=one_of(GRID.of_kind("choice")),
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    params:
        code=code("choose"),
        identity=identity,
        shots=lambda wc: GRID.adapters[wc.adapter].shots,
        by=lambda wc: GRID.adapters[wc.adapter].chosen_by,
        which=ADAPT and ADAPT.score,
        adaptation=lambda wc, input: options("adaptation", input.adaptation),
    shell:
        "python -m transformer2 choose {input.scores:q} --by {params.by:q} --which {params.which:q} --shots {params.shots:q} --task {wildcards.task:q}"
        " --data {input.data:q} {params.adaptation:q} --identity {params.identity:q} --out {output:q} > {log:q} 2>&1"


rule gather:
    input:
        decisions=GRID.decision_files(),
        mixes=[f"{folder}/adaptation.json" for folder in GRID.search_folders()],
    output:
        decisions="results/{run}/decisions.csv.gz",
        timings="results/{run}/timings.csv",
        alphas="results/{run}/alphas.csv.gz",
    log:
        "results/{run}/gather.log",
    benchmark:
        "results/{run}/gather.benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        code=code("gather"),
        decisions=lambda wc, input: options("decisions", input.decisions),
        mixes=lambda wc, input: options("mixes", input.mixes),
    shell:
        "python -m transformer2 gather {params.decisions:q} {params.mixes:q} --out results/{wildcards.run:q} > {log:q} 2>&1"


rule kit:
    # What `transformer2 ask --experts` takes: the expert of each class, and the classification expert.
    input:
        unpack(experts_by_class),
        expert_cls=lambda wc: (
            GRID.expert(wc.model, "classify", "cls", wc.seed)
            if "cls" in RUN.models[wc.model].strategies
            else []
        ),
    output:
        touch(f"{paths.EXPERT_BUNDLE}/done"),
    log:
        f"{paths.EXPERT_BUNDLE}/kit.log",
    benchmark:
        f"{paths.EXPERT_BUNDLE}/benchmark.tsv"
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    params:
        code=code("kit"),
        out=paths.EXPERT_BUNDLE.pattern,
        experts=lambda wc, input: named_folders(
            {
                name.removeprefix("expert_"): file
                for name, file in input.items()
                if file
            }
        ),
    shell:
        "rm -rf {params.out:q}/*/"
        " && python -m transformer2 kit {params.experts:q} --out {params.out:q} > {log:q} 2>&1"
