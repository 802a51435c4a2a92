"""The default run: the whole grid on stand-in models."""

from typing import Any

from transformer2.config.parts import CEM, Adaptation, Blocks, Budget, Model, TaskData, Transfer
from transformer2.config.training import Method

MODELS: dict[str, Model] = {
    "pocket-llama": Model(source="pocket:llama", row="llama3-8b", blocks=Blocks(train=3, answer=2, adapt=2, score=2)),
    "pocket-mistral": Model(
        source="pocket:mistral", row="mistral-7b", seed=1, transfer=Transfer(experts_of="pocket-llama")
    ),
    "pocket-llama-deep": Model(
        source="pocket:llama-deep", row="llama3-70b", seed=2, svf_layers="half", strategies=["prompt"]
    ),
    "pocket-llava": Model(
        source="pocket:llava-next",
        backbone="pocket-llama",
        row="llava-next-8b",
        seed=3,
        svf_layers="half",
        reward_wrong=-0.1,
        strategies=["few-shot"],
    ),
}
TASKS: dict[str, TaskData] = {
    "gsm8k": TaskData(train=600, validation=100, test=200, max_new_tokens=28),
    "mbpp_pro": TaskData(train=600, validation=100, test=200, max_new_tokens=24),
    "arc_easy": TaskData(train=600, validation=100, test=200, max_new_tokens=20),
    "textvqa": TaskData(train=600, validation=100, test=200, max_new_tokens=8),
}
UNSEEN: dict[str, TaskData] = {
    "math": TaskData(test=200, max_new_tokens=36),
    "humaneval": TaskData(test=200, max_new_tokens=20),
    "arc_challenge": TaskData(test=200, max_new_tokens=20),
    "okvqa": TaskData(test=200, max_new_tokens=8),
}

SMALL_PASSES: dict[str, Any] = {"micro_batch_tokens": 2048}
"""What a pass holds of a stand-in then fits into a processor's cache: a step takes a tenth less time."""
UPDATES = 16
"""Of every training; every method tries two learning rates. What the tables compare has equal budgets."""
POCKET_RL: dict[str, Any] = {"steps": UPDATES, "eval_every": 4, "batch_size": 64} | SMALL_PASSES
POCKET_NEXT_TOKEN: dict[str, Any] = {"steps": UPDATES, "eval_every": 8, "batch_size": 32} | SMALL_PASSES
SEEDS = [0, 1, 2]
"""What Tables 1 and 4 compare is trained with each; all else, and adaptation, with the first."""
SVF_RATES: dict[str, list[Any]] = {"learning_rate": [0.02, 0.05]}
LORA_RATES: dict[str, list[Any]] = {"learning_rate": [5e-4, 2e-3]}
ABLATION: dict[str, Any] = {"rows": ["llama3-8b"], "tasks": ["gsm8k"], "also_on": ["math"]}
ON_SHOTS: dict[str, Any] = {"rows": ["llama3-8b"], "tasks": ["arc_challenge"]}

METHODS: dict[str, Method] = {
    "svf": Method(settings=POCKET_RL, sweep=SVF_RATES),
    "lora": Method(recipe="paper-lora", settings=POCKET_NEXT_TOKEN, sweep=LORA_RATES),
    # Table 4; its LoRA on next tokens is the one above.
    "svf_mlp_pg": Method(settings=POCKET_RL | {"modules": "mlp"}, sweep=SVF_RATES, **ABLATION),
    "svf_attention_pg": Method(settings=POCKET_RL | {"modules": "attention_qv"}, sweep=SVF_RATES, **ABLATION),
    "svf_mlp_attention_pg": Method(settings=POCKET_RL | {"modules": "mlp_attention_qv"}, sweep=SVF_RATES, **ABLATION),
    "svf_attention_ntp": Method(
        settings=POCKET_NEXT_TOKEN | {"objective": "next_token", "modules": "attention_qv", "loss": "mean"},
        sweep=SVF_RATES,
        **ABLATION,
    ),
    "lora_attention_pg": Method(
        recipe="paper-lora",
        settings=POCKET_RL | {"objective": "policy_gradient", "loss": "sum"},
        sweep=LORA_RATES,
        **ABLATION,
    ),
    "lora_mlp_attention_ntp": Method(
        recipe="paper-lora",
        settings=POCKET_NEXT_TOKEN | {"modules": "mlp_attention_qv"},
        sweep=LORA_RATES,
        **ABLATION,
    ),
    # Table 7, and two methods that it does not have.
    "dora": Method(
        recipe="paper-lora",
        settings=POCKET_NEXT_TOKEN | {"adapter": "dora"},
        sweep=LORA_RATES,
        rows=["llama3-8b"],
        seeds=1,
    ),
    "ia3": Method(
        recipe="paper-ia3",
        settings=POCKET_NEXT_TOKEN,
        sweep={"learning_rate": [5e-2, 2e-1]},
        rows=["llama3-8b"],
        seeds=1,
    ),
    "vera": Method(
        recipe="paper-lora",
        settings=POCKET_NEXT_TOKEN | {"adapter": "vera", "rank": 64},
        sweep={"learning_rate": [5e-2, 2e-1]},
        rows=["llama3-8b"],
        seeds=1,
    ),
    "tinylora": Method(
        recipe="paper-lora",
        settings=POCKET_NEXT_TOKEN | {"adapter": "tinylora", "rank": 2, "modules": "all"},
        sweep={"learning_rate": [1e-2, 5e-2]},
        rows=["llama3-8b"],
        seeds=1,
    ),
}
ADAPTATION: Adaptation = Adaptation(
    seeds=1,
    compared=["lora", "dora", "ia3", "vera", "tinylora"],
    classifier=Method(settings=POCKET_RL | {"learning_rate": 0.02}),
    trained={
        f"ia3_{steps}": Method(
            recipe="paper-ia3", settings={"steps": steps, "eval_every": steps, "select": "last"}, **ON_SHOTS
        )
        for steps in (100, 1000)
    },
    prompts=TaskData(train=216, validation=164, test=140, max_new_tokens=16),
    class_tokens=16,
    cem=CEM(population=12, elites=3, iterations=8, patience=3),
    budgets={
        "10": Budget(shots=10),
        "3": Budget(shots=3, rows=["llama3-8b"], tasks=["arc_challenge"]),
        "5": Budget(shots=5, rows=["llama3-8b"], tasks=["arc_challenge"]),
        "20": Budget(shots=20, rows=["llama3-8b"], tasks=["arc_challenge"]),
        "light": Budget(shots=3, iterations=2, rows=["llama3-8b"], tasks=["arc_challenge"]),
    },
)
