"""The objective against its naive twin, and the loop: learning, stopping, resuming, failing."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from helpers import WORDS, model, right, rows, settings, tokenizer
from transformer2 import provenance
from transformer2.models import load_expert, new_expert
from transformer2.provenance import read_json, read_jsonl, write_json
from transformer2.rollout import likelihood
from transformer2.rollout.engine import Sampling
from transformer2.rollout.hf import HFEngine
from transformer2.svf import layer
from transformer2.tasks import classify
from transformer2.training import checkpoint, loop, objective
from transformer2.training.objective import Sample, accumulate_gradients, gradient_by_states, negative_objective
from transformer2.training.recompute import set_training_mode
from transformer2.training.samples import batch_indices, references, rollout
from transformer2.training.selection import ADAPTER_FILES, LAST, same_expert, select
from transformer2.training.team import Team

SAMPLES = [Sample([0, 5, 6], [7, 8, 9], 1.0), Sample([0, 5], [11], -1.0), Sample([0, 5, 6, 7, 8], [9, 4], 1.0)]


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def trainer(words, out, chosen, seed=0, n=24):
    out.mkdir(exist_ok=True, parents=True)
    expert = new_expert(model(len(words)), chosen, None, seed)
    return loop.Trainer(expert, HFEngine(expert, words), words, WORDS, rows(n), rows(16), chosen, seed, out)


def vectors(one):
    return {name: p.detach().clone() for name, p in one.parameters.items()}


@pytest.mark.parametrize(
    ("adapter", "modules", "rank", "numbers"),
    [
        # Two layers; hidden 32, keys and values 16, MLP 64; LoRA: rank (in + out) a matrix.
        ("lora", "mlp_attention_qv", 4, 2 * 4 * (3 * (32 + 64) + (32 + 32) + (32 + 16))),
        ("dora", "attention_qv", 4, 2 * (4 * (32 + 32 + 32 + 16) + 32 + 16)),  # and a magnitude an output
        ("ia3", "ia3", 1, 2 * (16 + 16 + 64)),  # outputs of k and v, inputs of down
        ("vera", "attention_qv", 8, 2 * (8 + 32 + 8 + 16)),  # a vector over the rank and one over the outputs
        ("tinylora", "all", 2, 2 * 7 * 64),  # one vector a matrix
    ],
)
def test_other_methods_start_at_the_base_learn_and_load(words, tmp_path, adapter, modules, rank, numbers):
    chosen = settings(
        adapter=adapter, modules=modules, rank=rank, objective="next_token", learning_rate=0.05, select="last"
    )
    one = trainer(words, tmp_path, chosen)
    assert sum(p.numel() for p in one.parameters.values()) == numbers
    ids = torch.tensor([[0, 5, 6, 7]])
    base = model(len(words))(ids).logits
    assert torch.allclose(one.model.eval()(ids).logits, base, atol=1e-4)
    one.run()
    one.save()
    losses = [line["loss"] for line in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in line]
    assert min(losses) < losses[0] - 0.5
    trained = one.model.eval()(ids).logits
    assert torch.equal(load_expert(model(len(words)), tmp_path, None)(ids).logits, trained)
    assert not torch.allclose(trained, base, atol=1e-2)


@pytest.mark.parametrize("stops_early", [False, True])
@pytest.mark.parametrize("selected", ["best", "last"])
def test_both_states_are_kept_and_the_selected_one_is_the_expert(words, tmp_path, monkeypatch, selected, stops_early):
    chosen = settings(select=selected, learning_rate=0.05, patience=2 if stops_early else 50)
    one, states, values = trainer(words, tmp_path, chosen), [], iter([0.2, 0.5, 0.4, 0.3])

    def validate(*_):
        states.append(vectors(one))
        return next(values)

    monkeypatch.setattr(loop, "accuracy", validate)
    progress = one.run()
    one.save()
    assert (progress.best_step, progress.step, progress.last_validation) == (2, 6, 0.3)
    assert bool(progress.stopped) is stops_early
    best, last = states[1], states[3]
    assert any(not torch.equal(best[name], last[name]) for name in best)
    for folder, state in ((tmp_path, {"best": best, "last": last}[selected]), (tmp_path / LAST, last)):
        saved = load_expert(model(len(words)), folder, None)
        held = dict(saved.named_parameters())
        assert all(torch.equal(held[name], values) for name, values in state.items())
    assert same_expert(tmp_path, tmp_path / LAST) is (selected == "last")


def test_the_last_state_of_a_training_that_got_better_is_the_expert_to_the_byte(words, tmp_path, monkeypatch):
    one = trainer(words, tmp_path, settings(learning_rate=0.05))
    monkeypatch.setattr(loop, "accuracy", lambda *_: one.progress.step / 10)
    one.run()
    one.save()
    assert same_expert(tmp_path, tmp_path / LAST)


@pytest.mark.parametrize(
    "kind",
    [
        {"adapter": "svf"},
        {"adapter": "svf", "parametrisation": "sigmoid_nuclear"},
        {"adapter": "lora", "modules": "attention_qv"},
        {"adapter": "dora", "modules": "attention_qv"},
        {"adapter": "ia3", "modules": "ia3"},
        {"adapter": "vera", "modules": "attention_qv"},
        {"adapter": "tinylora", "modules": "all", "rank": 2},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_weight_decay_alone_leads_back_to_the_base_model(words, tmp_path, kind):
    one = trainer(words, tmp_path, settings(init_std=0.3, weight_decay=1.0, **kind))
    ids = torch.tensor([[0, 5, 6, 7]])
    base = model(len(words))(ids).logits
    with torch.no_grad():
        torch.manual_seed(1)
        for parameter in one.parameters.values():
            parameter.add_(0.3 * torch.rand_like(parameter))
    distances = []
    for share in (0.0, 0.5, 1.0):
        one._decay(share)
        distances.append((one.model.eval()(ids).logits - base).abs().max().item())
    assert distances[0] > distances[1] > 0.01 and distances[2] < 1e-4


def test_decay_is_that_of_adamw_where_the_base_model_is_at_zero(words, tmp_path):
    chosen = settings(adapter="lora", modules="attention_qv", weight_decay=0.3, learning_rate=0.05, clip_norm=1e9)
    one = trainer(words, tmp_path, chosen)
    twins = [parameter.detach().clone().requires_grad_() for parameter in one.parameters.values()]
    theirs = torch.optim.AdamW(twins, lr=0.05, betas=loop.BETAS, weight_decay=0.3)
    for _ in range(3):
        one._update(SAMPLES, 0.05)
        for twin, parameter in zip(twins, one.parameters.values(), strict=True):
            twin.grad = parameter.grad
        theirs.step()
        for twin, parameter in zip(twins, one.parameters.values(), strict=True):
            torch.testing.assert_close(parameter.detach(), twin.detach())
            with torch.no_grad():
                twin.copy_(parameter)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU in which passes of at most `gpu["tokens"]` have room; all that are tried are noted."""
    whole, held = objective.completion_states, {"tokens": 10**6, "passes": []}

    def forward(causal, prompts, answers):
        tokens = len(prompts) * max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        held["passes"].append(tokens)
        if tokens > held["tokens"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(causal, prompts, answers)

    monkeypatch.setattr(objective, "completion_states", forward)
    return held


LONG_AND_SHORT = [Sample([0, 5, 6, 7, 8], [9, 4], 1.0), *[Sample([0, 5], [11], r) for r in (1.0, -1.0, 1.0, -1.0)]]


@pytest.mark.parametrize("kind", [{}, {"adapter": "lora", "modules": "attention_qv", "objective": "next_token"}])
def test_a_step_that_a_gpu_has_no_memory_for_is_done_again_in_smaller_passes(words, tmp_path, capsys, gpu, kind):
    chosen, found = settings(init_std=0.3, lora_dropout=0.0, micro_batch_tokens=12, **kind), []
    for room in (10**6, 11):
        one = trainer(words, tmp_path / str(room), chosen)
        set_training_mode(one.model, dropout=False)
        gpu["tokens"], gpu["passes"] = room, []
        found.append((one._gradients(LONG_AND_SHORT), [p.grad.clone() for p in one.parameters.values()]))
    assert gpu["passes"] == [7, 12, 7, 6, 6], "the first pass had its gradient before the second one failed"
    (facts, gradients), (facts_again, gradients_again) = found
    assert facts_again == pytest.approx(facts, rel=1e-5)
    torch.testing.assert_close(gradients_again, gradients, rtol=1e-4, atol=1e-6)
    assert (
        capsys.readouterr().out == "step 0: too little GPU memory for passes of 12 tokens: from here on they have 7\n"
    )
    one._gradients(LONG_AND_SHORT)
    assert gpu["passes"][5:] == [7, 6, 6], "the smaller size is kept"


def test_smaller_passes_are_kept_by_a_resumed_training_and_said_in_its_summary(words, tmp_path, gpu):
    whole = trainer(words, tmp_path / "whole", settings(micro_batch_tokens=128))
    gpu["tokens"] = 100
    whole.run()
    whole.save()
    assert read_json(tmp_path / "whole" / "training.json")["pass_tokens"] == 64
    trainer(words, tmp_path / "parts", settings(micro_batch_tokens=128)).run(last_step=3)
    gpu["passes"] = []
    second = trainer(words, tmp_path / "parts", settings(micro_batch_tokens=128))
    second.run()
    assert max(gpu["passes"]) <= 64
    assert all(torch.equal(a, b) for a, b in zip(vectors(whole).values(), vectors(second).values(), strict=True))


def test_a_pass_that_cannot_be_halved_is_refused_with_what_to_change(words, tmp_path, gpu):
    one = trainer(words, tmp_path, settings(micro_batch_tokens=12))
    gpu["tokens"] = 6
    with pytest.raises(ValueError, match="passes of 7 tokens, and its longest answer has 7.*gradient_checkpointing"):
        one._gradients(LONG_AND_SHORT)
    one.progress, one.team = loop.Progress(), Team(0, 2)
    with pytest.raises(ValueError, match="passes of 12 tokens in a process of 2; lower micro_batch_tokens"):
        one._gradients(LONG_AND_SHORT)


def test_objective_is_equation_one():
    logprobs, kl, r = torch.tensor([-2.0, -3.0]), torch.tensor([0.5, 0.1]), torch.tensor([1.0, -1.0])
    assert negative_objective(logprobs, kl, r, 0.3).sum().item() == pytest.approx(-((-2 - 0.15) + (3 - 0.03)))


@pytest.mark.parametrize("how", ["sum", "mean"])
@pytest.mark.parametrize("kl", ["policy_to_base", "base_to_policy"])
def test_gradients_equal_autograd_through_the_whole_batch(words, how, kl):
    chosen = settings(kl_coefficient=0.2, kl=kl, loss=how, init_std=0.3, micro_batch_tokens=6)
    expert = new_expert(model(len(words)), chosen, None, seed=1).eval()
    facts = accumulate_gradients(expert, SAMPLES, chosen)
    actual = [p.grad for p in expert.parameters() if p.requires_grad]
    losses = []
    for sample in SAMPLES:
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
        first = len(sample.prompt_ids) - 1
        policy = expert(ids).logits[0, first:-1].log_softmax(-1)
        with torch.no_grad(), expert.disable_adapter():
            base = expert(ids).logits[0, first:-1].log_softmax(-1)
        p, q = (policy, base) if kl == "policy_to_base" else (base, policy)
        divergence = (p.exp() * (p - q)).sum(-1)
        logprob = policy.gather(-1, ids[0, first + 1 :, None])[:, 0]
        losses.append(-(sample.reward * getattr(logprob, how)()) + 0.2 * getattr(divergence, how)())
    loss = torch.stack(losses).mean()
    expected = torch.autograd.grad(loss, [p for p in expert.parameters() if p.requires_grad])
    assert facts["loss"] == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(actual, list(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kl", ["policy_to_base", "base_to_policy", None])
def test_the_head_is_applied_once_to_each_token_and_its_gradients_are_those_of_all_logits_at_once(monkeypatch, kl):
    chosen = settings() if kl is None else settings(kl=kl, kl_coefficient=0.2)
    head = torch.nn.Linear(8, 30, bias=False).requires_grad_(False)
    states, base_states = torch.randn(11, 8, requires_grad=True), None if kl is None else torch.randn(11, 8)
    targets, rewards, weights = torch.randint(0, 30, (11,)), torch.randn(11), torch.rand(11)
    policy, divergence = head(states).log_softmax(-1), torch.zeros(11)
    if base_states is not None:
        divergence = likelihood.token_kl(policy, head(base_states).log_softmax(-1), chosen.kl)
    logprobs = policy.gather(-1, targets[:, None])[:, 0]
    loss = (weights * negative_objective(logprobs, divergence, rewards, chosen.kl_coefficient)).sum()
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 30 * 4)
    with FlopCounterMode(display=False) as counter:
        sums, gradient = gradient_by_states(head, states, base_states, targets, rewards, weights, chosen)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, states)[0])
    torch.testing.assert_close(sums, torch.stack([loss, (weights * divergence).sum()]).detach())
    passes = 2 if kl is None else 3  # logits, their gradient, the base model's logits
    assert counter.get_total_flops() == passes * 2 * 11 * 8 * 30


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor with the vocabulary as its last dimension; views are not counted."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.numbers = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in () if func.is_view else tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.vocabulary,):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("kl", [0.0, 0.2])
def test_no_more_logits_than_those_of_a_chunk_exist_at_once(words, monkeypatch, kl):
    base, chosen = model(len(words)), settings(kl_coefficient=kl, init_std=0.3)
    expert, vocabulary = new_expert(base, chosen, None, seed=1).eval(), base.config.vocab_size
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 2 * vocabulary)
    with Largest(vocabulary) as largest:
        accumulate_gradients(expert, SAMPLES, chosen)
    assert largest.numbers == 2 * vocabulary, "six tokens are answered"
    with Largest(vocabulary) as largest:
        states, _ = likelihood.completion_states(base, [s.prompt_ids for s in SAMPLES], [[7, 8]] * len(SAMPLES))
        base.get_output_embeddings()(states)
    assert largest.numbers == 6 * vocabulary, "the whole head is seen"


def test_scaled_weights_are_made_once_for_all_micro_batches_of_a_step(words, monkeypatch):
    chosen = settings(kl_coefficient=0.2, init_std=0.3, micro_batch_tokens=6)
    expert = new_expert(model(len(words)), chosen, None, seed=1).eval()
    made, compose = [], layer.compose

    def count(layers):
        made.append(len(layers))
        compose(layers)

    monkeypatch.setattr(layer, "compose", count)
    accumulate_gradients(expert, SAMPLES, chosen)
    assert len(SAMPLES) > 1 and made == [len(expert.base_model.svf_layers())]


def test_the_policy_gradient_is_that_of_the_scaled_weights_not_of_the_base(words):
    """Naive twin: base models that hold W' = U diag(s z) V^T as their weights, with z moved to either side."""
    chosen = settings(modules="mlp", init_std=0.3)
    expert = new_expert(model(len(words)), chosen, None, seed=1).eval()
    accumulate_gradients(expert, SAMPLES, chosen)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in expert.named_modules()
        if hasattr(module, "svf_z")
    }
    torch.manual_seed(2)
    directions = {name: torch.randn_like(layer.svf_z["default"]) for name, layer in layers.items()}

    def loss_at(z) -> float:
        base = model(len(words)).double()
        with torch.no_grad():
            for name, layer in layers.items():
                weight = base.get_submodule(name).weight
                u, s, v = torch.linalg.svd(weight, full_matrices=False)
                weight.copy_(u @ torch.diag(s * z(name, layer)) @ v)
        losses = []
        for sample in SAMPLES:
            ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
            answer = slice(len(sample.prompt_ids) - 1, -1)
            logprobs = base(ids).logits[0, answer].log_softmax(-1)
            losses.append(-sample.reward * logprobs.gather(-1, ids[0, len(sample.prompt_ids) :, None]).sum())
        return torch.stack(losses).mean().item()

    def slope(start) -> float:
        h = 1e-4
        up, down = (
            loss_at(lambda name, layer, step=step: start(layer) + step * directions[name].double()) for step in (h, -h)
        )
        return (up - down) / (2 * h)

    ours = sum((layer.svf_z["default"].grad * directions[name]).sum().item() for name, layer in layers.items())
    at_policy = slope(lambda layer: layer.svf_z["default"].detach().double())
    at_base = slope(lambda layer: torch.ones_like(layer.svf_z["default"]).double())
    assert ours == pytest.approx(at_policy, rel=1e-3)
    assert abs(at_base - at_policy) > 0.1 * abs(at_policy)


def test_what_is_trained_on_is_what_was_generated_token_for_token(words):
    expert = new_expert(model(len(words)), settings(), None, seed=0)
    engine, asked = HFEngine(expert, words), []
    generate = engine.generate

    def spy(prompts: list, sampling: Sampling):
        completions = generate(prompts, sampling)
        asked.extend(zip(prompts, completions, strict=True))
        return completions

    engine.generate = spy  # type: ignore[method-assign]
    samples, seen = rollout(engine, words, WORDS, rows(20), settings(), seed=3)
    assert [(s.prompt_ids, s.completion_ids) for s in samples] == [(p, c.token_ids) for p, c in asked]
    assert [s.reward for s in samples] == [1.0 if right(c.text) else -1.0 for c in seen.completions]
    assert {1.0, -1.0} == {s.reward for s in samples}


@pytest.mark.slow
def test_labels_are_drawn_by_their_likelihood_and_end_as_free_answers_would(words):
    engine = HFEngine(model(len(words)), words)
    task_rows = [{"item": str(i), "text": "say yes", "class": "math"} for i in range(400)]
    chosen = settings(rollout="labels")
    samples, seen = rollout(engine, words, classify.TASK, task_rows, chosen, seed=1)
    opening, firsts = classify.label_tokens(words)
    expected = engine.next_logprobs([[*samples[0].prompt_ids, *opening]], firsts)[0].softmax(-1)
    drawn = torch.tensor([[c.text == classify.ANSWER % name for name in classify.CLASSES] for c in seen.completions])
    assert (drawn.float().mean(0) - expected).abs().max() < 4 * (0.25 / 400) ** 0.5
    assert all(
        words.decode(s.completion_ids) == c.text + words.eos_token
        for s, c in zip(samples, seen.completions, strict=True)
    )
    assert [s.reward for s in samples] == [1.0 if right else -1.0 for right in drawn[:, 1].tolist()]
    again, same = (rollout(engine, words, classify.TASK, task_rows[:50], chosen, seed=1)[1] for _ in range(2))
    assert again.completions == same.completions
    with pytest.raises(ValueError, match="rollout: labels are those of the task classify; words has none"):
        rollout(engine, words, WORDS, rows(1), chosen, seed=1)


def test_reference_answers_follow_the_same_prompt_and_end_with_eos(words):
    (sample,) = references(words, WORDS)(rows(1))
    assert words.decode(sample.completion_ids) == "yes" + words.eos_token and sample.reward == 1.0


def test_reinforce_raises_the_reward_and_next_token_the_likelihood(words, tmp_path):
    chosen = settings(steps=20, batch_size=24, learning_rate=0.05, patience=50)
    trainer(words, tmp_path / "svf", chosen).run()
    validation = [line["accuracy"] for line in read_jsonl(tmp_path / "svf" / "validation.jsonl")]
    assert max(validation) > validation[0] + 0.3
    lora = settings(
        adapter="lora", objective="next_token", modules="attention_qv", learning_rate=0.02, loss="mean", steps=20
    )
    trainer(words, tmp_path / "lora", lora).run()
    losses = [line["loss"] for line in read_jsonl(tmp_path / "lora" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_coefficient": 0.1},
        {"adapter": "lora", "objective": "next_token", "modules": "attention_qv"},
        {"parametrisation": "sigmoid_nuclear", "optimizer": "adam_constant", "rollout": "greedy"},
    ],
)
def test_stopped_and_resumed_training_equals_an_undisturbed_one_bit_for_bit(words, tmp_path, changes):
    chosen = settings(learning_rate=0.02, patience=50, **changes)
    whole = trainer(words, tmp_path / "whole", chosen)
    whole.run()
    trainer(words, tmp_path / "parts", chosen).run(last_step=3)  # its last checkpoint is of step 2
    second = trainer(words, tmp_path / "parts", chosen)
    second.run()
    second.save()
    assert all(torch.equal(a, b) for a, b in zip(vectors(whole).values(), vectors(second).values(), strict=True))
    strip = lambda line: {k: v for k, v in line.items() if "second" not in k}  # noqa: E731
    for name in ("metrics.jsonl", "validation.jsonl"):
        logs = [[strip(line) for line in read_jsonl(tmp_path / run / name)] for run in ("whole", "parts")]
        assert logs[0] == logs[1]
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # of a tensor: the file can be read
    path.write_bytes(content)


def add_half_a_line(path):
    path.write_text(path.read_text() + '{"step": 2, "loss"')


def lose_a_line(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, harm, resumed",
    [
        ("checkpoint.safetensors", cut, False),
        ("checkpoint.safetensors", flip_a_bit, False),
        ("metrics.jsonl", add_half_a_line, True),
        ("metrics.jsonl", lose_a_line, False),
        ("rollouts.jsonl", add_half_a_line, True),
        ("validation.jsonl", add_half_a_line, True),
    ],
)
def test_whatever_is_left_of_a_killed_training_it_ends_as_an_undisturbed_one(
    words, tmp_path, capsys, name, harm, resumed
):
    whole = trainer(words, tmp_path / "whole", settings())
    whole.run()
    trainer(words, tmp_path / "parts", settings()).run(last_step=3)
    harm(tmp_path / "parts" / name)
    second = trainer(words, tmp_path / "parts", settings())
    second.run()
    assert ("resuming from step 2" in capsys.readouterr().out) == resumed
    assert all(torch.equal(a, b) for a, b in zip(vectors(whole).values(), vectors(second).values(), strict=True))
    assert read_jsonl(tmp_path / "whole" / "rollouts.jsonl") == read_jsonl(tmp_path / "parts" / "rollouts.jsonl")
    steps = [
        [line["step"] for line in read_jsonl(tmp_path / "parts" / n)] for n in ("metrics.jsonl", "validation.jsonl")
    ]
    assert steps == [[*range(6)], [0, 2, 4, 6]]


def test_a_training_that_is_killed_while_it_saves_goes_on_from_the_checkpoint_of_before(
    words, tmp_path, capsys, monkeypatch
):
    trainer(words, tmp_path, settings()).run(last_step=3)
    stopped = trainer(words, tmp_path, settings())
    with monkeypatch.context() as patch:
        patch.setattr(provenance.os, "replace", killed)
        with pytest.raises(SystemExit):
            stopped.run()
    capsys.readouterr()
    trainer(words, tmp_path, settings()).run()
    assert "resuming from step 2" in capsys.readouterr().out


def killed(*_):
    raise SystemExit


@pytest.mark.parametrize("patience", [50, 1])
def test_a_training_that_is_killed_before_its_expert_is_written_takes_no_step_again(
    words, tmp_path, capsys, monkeypatch, patience
):
    chosen = settings(learning_rate=0.05, patience=patience)
    monkeypatch.setattr(loop, "accuracy", lambda *_: 0.5)
    whole, stopped = trainer(words, tmp_path / "whole", chosen), trainer(words, tmp_path / "parts", chosen)
    whole.run()
    whole.save()
    stopped.run()
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "save_expert", killed)
        stopped.save()
    capsys.readouterr()
    again = trainer(words, tmp_path / "parts", chosen)
    monkeypatch.setattr(again, "_step", killed)
    progress = again.run()
    again.save()
    assert f"resuming from step {progress.step}" in capsys.readouterr().out
    for state in ("", LAST):
        assert same_expert(tmp_path / "whole" / state, tmp_path / "parts" / state)
    assert not same_expert(tmp_path / "parts", tmp_path / "parts" / LAST)
    assert read_json(tmp_path / "parts" / "training.json") == read_json(tmp_path / "whole" / "training.json")


def test_a_checkpoint_of_another_base_model_is_not_gone_on_from(words, tmp_path):
    first, second = trainer(words, tmp_path, settings()), trainer(words, tmp_path, settings())
    first.inputs, second.inputs = {"model": "a"}, {"model": "b"}
    first.run(last_step=4)
    second.run(last_step=1)
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [1, 3, 4])
def test_another_job_in_the_same_folder_begins_with_empty_logs(words, tmp_path, capsys, stopped_after):
    trainer(words, tmp_path / "one", settings(learning_rate=0.02)).run(last_step=stopped_after)
    edited = settings(learning_rate=0.01)
    trainer(words, tmp_path / "one", edited).run()
    trainer(words, tmp_path / "fresh", edited).run()
    assert "is of another job" in capsys.readouterr().out
    strip = lambda line: {k: v for k, v in line.items() if "second" not in k}  # noqa: E731
    for name in loop.LOGS:
        logs = [[strip(line) for line in read_jsonl(tmp_path / run / name)] for run in ("one", "fresh")]
        assert logs[0] == logs[1]
    assert [line["step"] for line in read_jsonl(tmp_path / "one" / "validation.jsonl")] == [0, 2, 4, 6]


def test_moments_are_restored_on_the_device_of_their_parameter():
    """The parameters are not on the CPU, where a checkpoint is read to; `meta` checks devices as a GPU does."""
    weights = {"z": torch.ones(4, requires_grad=True), "other.z": torch.ones(2, requires_grad=True)}
    optimizer = torch.optim.Adam(weights.values(), lr=0.1)
    for weight in weights.values():
        weight.grad = torch.full_like(weight, len(weight))
    optimizer.step()
    saved = {name: value.clone() for name, value in checkpoint.optimizer_tensors(optimizer, weights).items()}

    again = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    resumed = torch.optim.Adam(again.values(), lr=0.1)
    checkpoint.restore_optimizer(resumed, again, saved)
    restored = checkpoint.optimizer_tensors(resumed, again)
    assert restored.keys() == saved.keys() and all(torch.equal(restored[name], saved[name]) for name in saved)

    far = {name: w.detach().to("meta").requires_grad_() for name, w in weights.items()}
    moved = torch.optim.Adam(far.values(), lr=0.1)
    checkpoint.restore_optimizer(moved, far, saved)
    for weight in far.values():
        weight.grad = torch.ones_like(weight)
    moved.step()
    assert {value.device.type for name, value in checkpoint.optimizer_tensors(moved, far).items() if "exp" in name} == {
        "meta"
    }


def test_the_best_validation_is_kept_and_training_stops_early(words, tmp_path, monkeypatch):
    values, states = iter([0.2, 0.5, 0.4, 0.3]), []
    chosen = settings(steps=20, patience=2, learning_rate=0.05)
    one = trainer(words, tmp_path, chosen)

    def validate(*_):
        states.append(vectors(one))
        return next(values)

    monkeypatch.setattr(loop, "accuracy", validate)
    progress = one.run()
    assert (progress.best_step, progress.best_validation, progress.step) == (2, 0.5, 6)
    assert progress.stopped and progress.stopped.startswith("early")
    assert all(torch.equal(a, b) for a, b in zip(vectors(one).values(), states[1].values(), strict=True))


def test_a_loss_that_is_not_finite_ends_the_job_and_keeps_the_last_good_state(words, tmp_path, monkeypatch):
    one = trainer(words, tmp_path, settings(steps=8))
    real = loop.accumulate_gradients
    calls = []

    def broken(*args):
        facts = real(*args)
        calls.append(1)
        return facts | {"loss": math.nan} if len(calls) == 3 else facts

    monkeypatch.setattr(loop, "accumulate_gradients", broken)
    progress = one.run()
    assert (
        progress.step == 3 and progress.stopped and progress.stopped.startswith("diverged: loss or gradient of step 2")
    )
    assert all(torch.isfinite(p).all() for p in one.parameters.values())
    one.save()
    assert read_json(tmp_path / "training.json")["stopped"].startswith("diverged")


@pytest.mark.parametrize(("reward_wrong", "last_step"), [(-1.0, 8), (0.0, 3)])
def test_without_right_answers_a_training_says_so_and_goes_on_as_long_as_it_has_a_gradient(
    words, tmp_path, monkeypatch, capsys, reward_wrong, last_step
):
    monkeypatch.setattr(loop, "COLLAPSE_STEPS", 3)
    one = trainer(words, tmp_path, settings(steps=8, eval_every=100, reward_wrong=reward_wrong))
    one.task = loop.Task(**{**WORDS.__dict__, "score": lambda r, c: [WORDS.score(r, [""])[0]] * len(r)})
    start = vectors(one)
    progress = one.run()
    one.save()
    assert (progress.step, progress.collapsed_at) == (last_step, 2)
    assert "collapsed: no right answer in the 3 steps up to 2" in capsys.readouterr().out
    moved = any(not torch.equal(start[name], value) for name, value in one.last.items())
    if reward_wrong:
        assert progress.stopped is None and moved
    else:
        assert progress.stopped == "no gradient in the 3 steps up to 2: nothing is left to follow" and not moved
    # The end is validated, so that the last state is judged too, and step 0 stays the best.
    evaluated = [line["step"] for line in read_jsonl(tmp_path / "validation.jsonl")]
    assert evaluated == [0, last_step] and progress.best_step == 0 and progress.last_validation == 0


def test_rollouts_and_metrics_are_logged_a_row_each(words, tmp_path):
    trainer(words, tmp_path, settings()).run()
    logged = read_jsonl(tmp_path / "rollouts.jsonl")
    assert len(logged) == 6 * 8 and {"step", "item", "token_ids", "reward", "finish_reason", "strict"} <= set(logged[0])
    assert {"loss", "kl", "reward", "gradient_norm", "tokens_per_second", "learning_rate"} <= set(
        read_jsonl(tmp_path / "metrics.jsonl")[0]
    )


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (5, 256)])
def test_every_row_comes_once_an_epoch(n, size):
    drawn = [i for step in range(2 * n) for i in batch_indices(n, size, step, seed=4)]
    for epoch in range(len(drawn) // n):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert drawn[:n] != drawn[n : 2 * n] and drawn != [
        i for s in range(2 * n) for i in batch_indices(n, size, s, seed=5)
    ]


def test_learning_rate_is_a_cosine_or_constant(words, tmp_path):
    cosine = trainer(words, tmp_path, settings(steps=10, learning_rate=0.2))
    assert [round(cosine.learning_rate(s), 3) for s in (0, 5, 10)] == [0.2, 0.1, 0.0]
    assert trainer(words, tmp_path, settings(optimizer="adam_constant", learning_rate=0.2)).learning_rate(5) == 0.2


def test_half_of_the_layers_is_the_upper_half(words):
    expert = new_expert(model(len(words)), settings(layers="half"), None, seed=0)
    assert all(".layers.1." in name for name, p in expert.named_parameters() if p.requires_grad)


def test_selection_takes_the_best_validation_of_each_state_and_the_first_of_equals(tmp_path):
    points = {"a": (0.5, 0.4), "b": (0.7, 0.0), "c": (0.7, 0.1)}
    for name, (best, last) in points.items():
        for folder, text in ((tmp_path / name, name), (tmp_path / name / LAST, f"{name} at last")):
            folder.mkdir()
            for file in ADAPTER_FILES:
                (folder / file).write_text(text)
        summary = {"best_validation": best, "last_validation": last, "settings": {"select": "best"}}
        write_json(tmp_path / name / "training.json", summary)
    assert select([tmp_path / name for name in points], tmp_path / "out").name == "b"
    for folder, chosen, text, values in (
        (tmp_path / "out", "b", "b", {"a": 0.5, "b": 0.7, "c": 0.7}),
        (tmp_path / "out" / LAST, "a", "a at last", {"a": 0.4, "b": 0.0, "c": 0.1}),
    ):
        assert [(folder / file).read_text() for file in ADAPTER_FILES] == [text, text]
        found = read_json(folder / "selection.json")
        assert (found["chosen"], found["validation"]) == (chosen, values)
        assert found["training"] == read_json(tmp_path / chosen / "training.json")


def test_where_the_last_state_is_asked_for_a_point_is_judged_by_it(tmp_path):
    for name, best, last in (("a", 0.9, 0.1), ("b", 0.5, 0.5)):
        for folder in (tmp_path / name, tmp_path / name / LAST):
            folder.mkdir()
            for file in ADAPTER_FILES:
                (folder / file).write_text(name)
        summary = {"best_validation": best, "last_validation": last, "settings": {"select": "last"}}
        write_json(tmp_path / name / "training.json", summary)
    assert select([tmp_path / "a", tmp_path / "b"], tmp_path / "out").name == "b"
    assert read_json(tmp_path / "out" / "selection.json")["state"] == "last"
