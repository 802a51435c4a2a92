"""TextVQA (Singh et al. 2019) and OK-VQA (Marino et al. 2019): questions about pictures, answered by ten people each.

The released code has neither. Prompt: that of LLaVA's own evaluation, the question and a request for a single word or
phrase. Score: the VQA accuracy, a share from 0 to 1, after the answer normalisation of the EvalAI servers, quirks
included (lmms-eval 0.7.3 computes the same): "what's" becomes "what 's", "T-shirt - red" loses all of its hyphens.

TextVQA's training set makes equal training and validation halves (even and odd rows, as for GSM8K); its validation set
is the test set, since the answers of its test set are not public. OK-VQA is unseen: its validation set is the test set.
"""

import re
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from transformer2.tasks.base import Hub, Prompt, Row, Score, Split, Task, Text, Texts

REQUEST = "Answer the question using a single word or phrase."

SIGNS = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(i) for i, word in enumerate(NUMBER_WORDS.split())} | {"none": "0"}
ARTICLES = ("a", "an", "the")
SHORT_FORMS = """'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've"""
CONTRACTIONS = {
    form[:i] + form[i + 1 :]: form for form in SHORT_FORMS.split() for i, sign in enumerate(form) if sign == "'"
}
"""Short forms that lack one apostrophe -> the whole form."""
CONTRACTIONS["somebody'd"] = "somebodyd"  # so in the official table

STATED = re.compile(r".*\b(?:answer\s*:|answer is\b)", re.IGNORECASE | re.DOTALL)


def normalise(answer: str) -> str:
    """An answer as the EvalAI servers compare it: lower case, without signs and articles, numbers in digits."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ")
    bare = text
    for sign in SIGNS:
        # A sign beside a space goes, one inside a word becomes a space.
        bare = bare.replace(sign, "" if f"{sign} " in text or f" {sign}" in text else " ")
    bare = re.sub(r"\.(?!\d)", "", bare)
    words = [NUMBERS.get(word, word) for word in bare.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy (Antol et al. 2015): min(n / 3, 1) for n people who gave this answer, averaged over all choices of
    nine of the ten people; 0.6 for an answer that two of ten gave.

    Raises:
        ValueError: nobody answered.
    """
    if not answers:
        raise ValueError("a question without answers cannot be scored")
    given = normalise(answer)
    same = [normalise(other) == given for other in answers]
    n = sum(same)
    return sum(min((n - one) / 3, 1.0) for one in same) / len(same)


def read_answer(completion: str) -> str:
    """What a reply states: what follows its last "answer:" or "answer is", else its first line that has words."""
    if stated := STATED.match(completion):
        completion = completion[stated.end() :]
    lines = [line for line in completion.splitlines() if re.search(r"\w", line)]
    return lines[0].strip() if lines else ""


def prompt(row: Row) -> Prompt:
    """The picture, the question and the request, as user message."""
    return Prompt(({"role": "user", "content": f"{row['question']}\n{REQUEST}"},), picture=row["image"])


def solution(row: Row) -> str:
    """The answer that most people gave, in whatever spelling; the first of equals."""
    [(most, _)] = Counter(map(normalise, row["answers"])).most_common(1)
    return next(answer for answer in row["answers"] if normalise(answer) == most)


def score(rows: Sequence[Row], completions: Sequence[str]) -> list[Score]:
    """Strict: the accuracy of the whole reply, as the field computes it. Lenient: of the answer that it states."""
    scores = []
    for row, completion in zip(rows, completions, strict=True):
        stated = read_answer(completion)
        strict, lenient = (vqa_accuracy(text, row["answers"]) for text in (completion, stated))
        scores.append(Score(strict, max(strict, lenient), stated or None))
    return scores


COLUMNS = {"question": Text, "answers": Texts, "image": str | bytes | dict[str, Any]}
TEXTVQA = Task(
    name="textvqa",
    version=1,
    domain="others",
    columns=COLUMNS,
    source=Hub("lmms-lab/textvqa", "9c0699cd19768ac5ab97568f6b3cbac4c0062884", ("data/{split}-*.parquet",)),
    splits={
        "train": Split("train", slice(0, None, 2)),
        "validation": Split("train", slice(1, None, 2)),
        "test": Split("validation"),
    },
    prompt=prompt,
    question=itemgetter("question"),
    solution=solution,
    score=score,
    stop=(),
    max_new_tokens=16,
)
OKVQA = Task(
    name="okvqa",
    version=1,
    domain="others",
    columns=COLUMNS,
    source=Hub("lmms-lab/OK-VQA", None, ("data/val2014-*.parquet",)),  # only its validation set
    splits={"test": Split("validation")},
    prompt=prompt,
    question=itemgetter("question"),
    solution=solution,
    score=score,
    stop=(),
    max_new_tokens=16,
)
