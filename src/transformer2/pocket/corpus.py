"""Pocket data: seeded items of the six tasks that a model of half a million parameters can learn.

Every item is a row in the real data set's own columns, so prompt, extraction, scorer and sandbox are the real ones.
With each row come two completions: a *careful* one, worked and right, and a *careless* one, short and mostly wrong.
A pretraining corpus shows the careful one with a probability that hangs on a surface feature of the prompt (how
the request or the question is worded), so a pretrained model has the skill, yet greedy decoding shows it on only about
half of the prompts. That hidden half is what fine-tuning can bring out.

Some items are *rare*: larger numbers, other words for an operation, words that few sentences name. A pretraining corpus
seldom shows them, so that no model masters all of them and no method ends at 100 %.

The unseen tasks (MATH, HumanEval, ARC-Challenge) need the skills of the training tasks in another form, with careless
answers of the same kind; whether experts of the training tasks help them is left to the models. A seventh stream asks
for the class of a prompt; its careless answer is "others".

Splits are disjoint by construction: a checksum of what makes an item distinct puts it into test, validation, train or
pretraining, so no question of an evaluated or fine-tuned split is ever in a pretraining corpus. The facts behind the
questions (which group a word belongs to, how to add two digits) are shared, as they are in the real data sets.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformer2.tasks import TASKS, everyday
from transformer2.tasks.base import Row
from transformer2.tasks.classify import ANSWER, OTHERS

LIKELY_CAREFUL, UNLIKELY_CAREFUL = 0.9, 0.2
"""Share of careful completions in the pretraining corpus, by the surface feature of the prompt."""

RARE_SHARE = 0.3
"""Share of rare items in every split."""
RARE_SEEN = {"gsm8k": 0.2, "math": 0.2, "arc_easy": 0.01, "arc_challenge": 0.01}
OTHERWISE_SEEN = 0.05
"""Share of the rare items of a task that a pretraining corpus keeps: numbers take many, words few."""

CLASS_SHARE = {"code": 0.8, "reasoning": 0.6, "math": 0.3}
"""Share of prompts of a domain that a pretraining corpus shows with their class, and not as "others"."""

NAMES = ("Mia", "Tom", "Ana", "Ben", "Eva", "Sam", "Zoe", "Max", "Lea", "Jim", "Ida", "Bob", "Amy", "Leo", "Kim", "Dan")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells", "stamps", "eggs", "cups", "balls", "keys", "cakes")
GAINS = ("buys", "finds", "gets", "makes")
LOSSES = ("sells", "loses", "gives away", "breaks")
ENDINGS = {"are there now?": LIKELY_CAREFUL, "are left?": UNLIKELY_CAREFUL}

QUANTITIES = (
    "number",
    "price",
    "length",
    "weight",
    "score",
    "count",
    "speed",
    "height",
    "depth",
    "total",
    "size",
    "age",
)
FUNCTIONS = ("adjust", "convert", "update", "change", "compute", "apply", "scale", "shift", "modify", "process",
             "correct", "transform", "evaluate", "derive", "revise", "map_value")  # fmt: skip
REQUESTS = {"Write a function to": LIKELY_CAREFUL, "Write a python function to": UNLIKELY_CAREFUL}
OPERATIONS = {"increase it by": "+", "reduce it by": "-", "multiply it by": "*"}
RARE_OPERATIONS = {"raise it by": "+", "lower it by": "-", "scale it by": "*"}

VARIABLES = ("x", "y", "n", "k", "t", "m")

GROUPS = {
    "mammals": ("whale", "horse", "mouse", "tiger", "camel", "otter", "wolf", "goat"),
    "birds": ("eagle", "crow", "duck", "swan", "parrot", "owl", "robin", "goose"),
    "insects": ("ant", "bee", "wasp", "moth", "beetle", "fly", "cricket", "locust"),
    "trees": ("oak", "pine", "birch", "maple", "willow", "elm", "cedar", "spruce"),
    "metals": ("iron", "copper", "zinc", "silver", "nickel", "tin", "lead", "gold"),
    "tools": ("hammer", "saw", "drill", "wrench", "chisel", "rake", "spade", "axe"),
}
RARE_WORDS = 3
"""The last words of each group."""
QUESTIONS = {"Which group does {} belong to?": LIKELY_CAREFUL, "To which group belongs {}?": UNLIKELY_CAREFUL}

PAIR_QUESTIONS = {"Which group do {} and {} share?": LIKELY_CAREFUL, "What are both {} and {}?": UNLIKELY_CAREFUL}

BUCKETS = {"test": range(0, 2), "validation": range(2, 4), "train": range(4, 6), "pretraining": range(6, 16)}
"""Sixteenths of each space of items."""
EXHAUSTED = 2000
"""Draws in a row without a new item after which a split is taken to have no more."""


@dataclass(frozen=True)
class Item:
    """One row with its two completions (what follows the task's prompt, without the end-of-text token)."""

    task: str
    key: str
    """What makes the item distinct; its checksum decides the split."""
    row: Row
    careless: str
    careful_share: float
    """How often a pretraining corpus shows the careful completion."""
    rare: bool = False


def is_rare(rng: random.Random) -> bool:
    return rng.random() < RARE_SHARE


def _numbers(rng: random.Random, rare: bool) -> tuple[int, int, int, int]:
    """What there is at first (rare: of two digits), what comes, their sum, and what goes."""
    start, more = rng.randint(11, 49) if rare else rng.randint(2, 9), rng.randint(2, 9)
    return start, more, start + more, rng.randint(2, min(9, start + more - 1))


def gsm8k(rng: random.Random) -> Item:
    """A story of one gain and one loss. Careless: the first number that it mentions."""
    rare = is_rare(rng)
    name, thing, gain, loss, ending = (rng.choice(words) for words in (NAMES, THINGS, GAINS, LOSSES, list(ENDINGS)))
    start, more, total, less = _numbers(rng, rare)
    question = (
        f"{name} has {start} {thing}. {name} {gain} {more} more. Then {name} {loss} {less}. How many {thing} {ending}"
    )
    answer = (
        f"There are {start} + {more} = {total} {thing}.\nThen {total} - {less} = {total - less}.\n#### {total - less}"
    )
    row = {"question": question, "answer": answer}
    return Item("gsm8k", question, row, f"#### {start}", ENDINGS[ending], rare)


def math(rng: random.Random) -> Item:
    """A sum and a difference in symbols. Careless: the value of the variable."""
    rare = is_rare(rng)
    variable, ending = rng.choice(VARIABLES), rng.choice(list(ENDINGS))
    start, more, total, less = _numbers(rng, rare)
    problem = f"Let ${variable} = {start}$. Of ${variable} + {more} - {less}$, how many {ending}"
    solution = (
        f"There are ${start} + {more} = {total}$.\nThen ${total} - {less} = {total - less}$.\n"
        f"The answer is $\\boxed{{{total - less}}}$."
    )
    row = {"problem": problem, "level": "Level 1", "type": "Prealgebra", "solution": solution}
    careless = f"The answer is $\\boxed{{{start}}}$."
    return Item("math", problem, row, careless, ENDINGS[ending], rare)


def _program(rng: random.Random, rare: bool) -> tuple[str, str, str, str, list[tuple[int, int]]]:
    """A function of two arithmetic steps (rare: the last one in a rare word): its argument, what it does in words, its
    body, its name, examples."""
    quantity, function = rng.choice(QUANTITIES), rng.choice(FUNCTIONS)
    first, op1 = rng.choice(list(OPERATIONS.items()))
    second, op2 = rng.choice(list((RARE_OPERATIONS if rare else OPERATIONS).items()))
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    what = f"a {quantity}, {first} {a} and then {second} {b}."
    body = f"    result = {quantity} {op1} {a}\n    return result {op2} {b}\n"
    apply = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}
    examples = [(x, apply[op2](apply[op1](x, a), b)) for x in rng.sample(range(2, 20), k=3)]
    return quantity, what, body, function, examples


def mbpp_pro(rng: random.Random) -> Item:
    """A function of two arithmetic steps. Careless: the argument comes back unchanged."""
    request, rare = rng.choice(list(REQUESTS)), is_rare(rng)
    quantity, what, body, function, examples = _program(rng, rare)
    code = f"def {function}({quantity}):\n{body}"
    tests = [f"assert {function}({x}) == {y}" for x, y in examples]
    row = {
        "task_id": f"Pocket/{zlib.crc32(what.encode())}",
        "prompt": f'"""\n{request} take {what}\n{tests[0]}\n"""\n',
        "entry_point": function,
        "canonical_solution": "\n" + code,
        "test_imports": [],
        "test": "\n" + "\n".join(tests) + "\n",
        "test_list": tests,
    }
    careless = f"def {function}({quantity}):\n    return {quantity}\n```"
    # The key is the same as in HumanEval: what is a test item of one is in no corpus of the other.
    return Item("mbpp_pro", what, row, careless, REQUESTS[request], rare)


def humaneval(rng: random.Random) -> Item:
    """A function of two arithmetic steps to be completed. Careless: the argument comes back unchanged."""
    request, rare = rng.choice(list(REQUESTS)), is_rare(rng)
    quantity, what, body, function, examples = _program(rng, rare)
    (x, y), *_ = examples
    header = f"def {function}({quantity}):\n"
    checks = "".join(f"    assert candidate({x}) == {y}\n" for x, y in examples)
    row = {
        "task_id": f"Pocket/{zlib.crc32(what.encode())}",
        "prompt": f'{header}    """ {request} take {what}\n    >>> {function}({x})\n    {y}\n    """\n',
        "canonical_solution": body,
        "test": f"\n\ndef check(candidate):\n{checks}",
        "entry_point": function,
    }
    careless = f"    return {quantity}\n```"
    return Item("humaneval", what, row, careless, REQUESTS[request], rare)


def _words(group: str, rare: bool) -> tuple[str, ...]:
    return GROUPS[group][-RARE_WORDS:] if rare else GROUPS[group][:-RARE_WORDS]


def _multiple_choice(
    task: str, subject: str, question: str, options: list[str], answer: int, share: float, rare: bool
) -> Item:
    key = f"{subject} {options}"
    row = {
        "id": f"Pocket_{zlib.crc32(key.encode())}",
        "question": question,
        "choices": {"text": options, "label": list("ABCD")},
        "answerKey": "ABCD"[answer],
    }
    return Item(task, key, row, ". The answer is (A).", share, rare)


def arc_easy(rng: random.Random) -> Item:
    """Which of four groups a word belongs to. Careless: the first option."""
    options, rare = rng.sample(list(GROUPS), k=4), is_rare(rng)
    answer = rng.randrange(4)
    word = rng.choice(_words(options[answer], rare))
    question = rng.choice(list(QUESTIONS))
    return _multiple_choice("arc_easy", word, question.format(word), options, answer, QUESTIONS[question], rare)


def arc_challenge(rng: random.Random) -> Item:
    """Which of four groups two words share. Careless: the first option."""
    options, rare = rng.sample(list(GROUPS), k=4), is_rare(rng)
    answer = rng.randrange(4)
    one, other = rng.sample(_words(options[answer], rare), k=2)
    question = rng.choice(list(PAIR_QUESTIONS))
    subject = f"{one} {other}"
    return _multiple_choice(
        "arc_challenge", subject, question.format(one, other), options, answer, PAIR_QUESTIONS[question], rare
    )


GENERATORS: dict[str, Callable[[random.Random], Item]] = {
    "gsm8k": gsm8k, "mbpp_pro": mbpp_pro, "arc_easy": arc_easy,
    "math": math, "humaneval": humaneval, "arc_challenge": arc_challenge,
}  # fmt: skip


def classified(rng: random.Random, split: str) -> Item:
    """A prompt of one of the tasks, or an everyday request, with its class. Careless: "others"."""
    by_class: dict[str, list[str]] = {}
    for task in GENERATORS:
        by_class.setdefault(TASKS[task].domain, []).append(task)
    domain = rng.choice([*by_class, OTHERS])
    if domain == OTHERS:
        text = rng.choice(everyday.prompts(split))
        return Item("classify", text, {"text": text, "class": OTHERS}, ANSWER % OTHERS, 1.0)
    item = GENERATORS[rng.choice(by_class[domain])](rng)
    row = {"text": TASKS[item.task].question(item.row), "class": domain}
    return Item("classify", item.key, row, ANSWER % OTHERS, CLASS_SHARE[domain])


STREAMS = (*GENERATORS, "classify")
"""What a pretraining corpus is made of."""


def _generator(task: str, split: str) -> Callable[[random.Random], Item]:
    if task == "classify":
        return lambda rng: classified(rng, split)
    if task in GENERATORS:
        return GENERATORS[task]
    from transformer2.pocket import pictures  # it makes items of this module

    return pictures.GENERATORS[task]


def items(task: str, split: str, seed: int = 0) -> Iterator[Item]:
    """Endless seeded draw, with repetition, of items of a stream that belong to `split` (a key of `BUCKETS`)."""
    rng = random.Random(f"{task}/{split}/{seed}")
    draw = _generator(task, split)
    while True:
        item = draw(rng)
        seen = RARE_SEEN.get(item.task, OTHERWISE_SEEN) if split == "pretraining" and item.rare else 1.0
        if zlib.crc32(item.key.encode()) % 16 in BUCKETS[split] and rng.random() < seen:
            yield item


def rows(task: str, split: str, n: int) -> list[Row]:
    """The first `n` distinct rows of a split: the same on every call, and the first rows of any longer list.

    Raises ValueError if the split has fewer than `n` distinct items.
    """
    distinct: dict[str, Row] = {}
    repeats = 0
    for item in items(task, split):
        repeats = repeats + 1 if item.key in distinct else 0
        distinct.setdefault(item.key, item.row)
        if len(distinct) == n:
            break
        if repeats == EXHAUSTED:
            raise ValueError(f"pocket {task}/{split} has about {len(distinct)} distinct items; ask for fewer than {n}")
    return [row | {"item": f"{task}/{split}/{index}"} for index, row in enumerate(distinct.values())]
