"""The paper's schematic figures, with the numbers and texts of a run (`reproduce.illustration`)."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from transformer2.report.figures.drawing import COLOURS, save

BLUE, ORANGE, GREEN, PINK, SKY = COLOURS
INK, SOFT = "#1b1b1b", "#6b6b6b"
COLUMNS = 92
"""Letters of a line of a text figure."""
LETTER = 12 / 160
"""Width of a letter there in inches: a whole number of pixels of the PNG (`drawing.save`), or the letters of a line
would not end where those of another colour begin."""
SIZE = 72 * LETTER / 0.602
"""Font size of DejaVu Sans Mono with that width, in points."""
HEIGHT, DRAWN, TOP = 4.7, 0.91, 102
"""Of a schema: inches, the part of them below the title, and the vertical coordinate where that part ends."""
STEP = 0.19 / (HEIGHT * DRAWN) * TOP
"""Between two lines in a box: 0.19 inches."""
W_PRIME = r"$W^\prime = U\,\Sigma\,\mathrm{diag}(z)\,V^\top$"


class Segment(NamedTuple):
    text: str
    colour: str
    name: str
    """What the colour means."""


# ---- figures of text


def adaptation_prompt(facts: Mapping[str, Any], out: Path) -> None:
    """Writes Figure 3: the prompt that asks a model for a class, token for token as it is sent; files as
    `drawing.save`."""
    asked = facts["asked"]
    before, question, after = asked["text"].rpartition(asked["question"])
    segments = [
        Segment(before, INK, "adaptation prompt, in the model's chat template"),
        Segment(question, BLUE, "the prompt that is classified"),
        Segment(after, INK, "adaptation prompt, in the model's chat template"),
    ]
    title = f"Figure 3 of the paper, 4 of the workshop paper\n{_of(facts)}; {asked['tokens']} tokens"
    _text_figure(segments, title, out)


def sample(facts: Mapping[str, Any], out: Path) -> None:
    """Writes Figure 8: a sample of next-token training, with what is trained on in blue; files as `drawing.save`."""
    shown = facts["sample"]
    segments = [
        Segment(shown["prompt"], SOFT, f"prompt, masked ({shown['prompt_tokens']} tokens)"),
        Segment(shown["answer"], BLUE, f"solution, trained on ({shown['answer_tokens']} tokens)"),
    ]
    title = f"Figure 8 of the paper, 5 of the workshop paper\n{_of(facts)}; {shown['item']}"
    _text_figure(segments, title, out)


def _text_figure(segments: Sequence[Segment], title: str, out: Path) -> None:
    lines = wrap(segments)
    head, body, foot = 0.58, len(lines) * SIZE * 1.35 / 72, 0.36
    width, height = COLUMNS * LETTER + 0.4, head + body + foot
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0.2 / width, foot / height, COLUMNS * LETTER / width, body / height))
    axis.set(xlim=(0, COLUMNS), ylim=(len(lines), 0))
    axis.set_axis_off()
    for y, line in enumerate(lines):
        for x, piece, colour in line:
            axis.text(
                x, y + 0.5, piece, color=colour, family="DejaVu Sans Mono", fontsize=SIZE, va="center",
                parse_math=False,
            )  # fmt: skip
    figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=10, parse_math=False)
    meanings = dict.fromkeys((segment.name, segment.colour) for segment in segments)
    for number, (name, colour) in enumerate(meanings):
        figure.text((0.2 + 3.5 * number) / width, 0.12 / height, f"■ {name}", color=colour, fontsize=9)
    save(figure, pd.DataFrame(segments, columns=["text", "colour", "meaning"]).drop(columns="colour"), out)


def wrap(segments: Sequence[Segment]) -> list[list[tuple[int, str, str]]]:
    """Lines of at most `COLUMNS` letters: pieces of one colour with the column where each begins.

    A line ends where the text's does, or between words; a space that has no room there is left out.
    """
    letters = [(letter, segment.colour) for segment in segments for letter in segment.text]
    words: list[list[tuple[str, str]]] = [[]]
    for letter, colour in letters:
        if letter.isspace() or (words[-1] and (words[-1][0][0].isspace() or len(words[-1]) == COLUMNS)):
            words.append([])
        words[-1].append((letter, colour))
    lines: list[list[tuple[str, str]]] = [[]]
    for word in words:
        if word and (word[0][0] == "\n" or len(lines[-1]) + len(word) > COLUMNS):
            lines.append([])
            if word[0][0].isspace():
                continue
        lines[-1] += word
    return [_pieces(line) for line in lines]


def _pieces(line: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    pieces, column = [], 0
    for colour, of_colour in groupby(line, key=lambda letter: letter[1]):
        text = "".join(letter for letter, _ in of_colour)
        pieces.append((column, text, colour))
        column += len(text)
    return pieces


# ---- figures of the method


def overview(facts: Mapping[str, Any], out: Path) -> None:
    """Writes Figure 1: experts are trained once, then each prompt is answered in two passes.

    Files as `drawing.save`.
    """
    experts = facts["experts"]
    figure, axis = _canvas(f"Figure 1 of both papers, {_of(facts)}; seed {facts['seed']}")
    _heading(axis, 1, "Training, once for each task")
    _base_model(axis, facts)
    _box(axis, 1, 3, 27, 22, "SVF: one vector z a matrix", [W_PRIME], BLUE)
    _arrow(axis, (14.5, 35), (14.5, 25))
    height = min(24, 88 / len(experts) - 3)
    bottoms = [91 - height - i * (88 - height) / max(1, len(experts) - 1) for i in range(len(experts))]
    for expert, bottom in zip(experts, bottoms, strict=True):
        share = f"{100 * expert['parameters'] / facts['parameters']:.2g} % of the model's"
        lines = [f"class {expert['class']}", f"{expert['parameters']:,} numbers,", share]
        _box(axis, 35, bottom, 21, height, f"z of {expert['task']}", lines, ORANGE)
        _arrow(axis, (28, 14), (35, bottom + height / 2))
        _arrow(axis, (56, bottom + height / 2), (63, 35))
    _heading(axis, 63, "Inference, two passes")
    mixed = [f"one of the {len(experts)} experts, or their mix;", "base weights for others"]
    steps = [
        ("Prompt", ["of an unknown task"], SOFT),
        ("First pass", ["which class?", " · ".join(facts["classes"])], GREEN),
        (r"$z^\prime$ for this prompt", mixed, ORANGE),
        ("Second pass", [r"answer with $W^\prime = U\,\Sigma\,\mathrm{diag}(z^\prime)\,V^\top$"], BLUE),
    ]
    for number, (title, lines, colour) in enumerate(steps):
        bottom = 72 - 23 * number
        _box(axis, 63, bottom, 36, 18, title, lines, colour)
        if number:
            _arrow(axis, (81, bottom + 23), (81, bottom + 18))
    save(figure, _numbers(facts), out)


def _base_model(axis: Axes, facts: Mapping[str, Any]) -> None:
    first = facts["experts"][0]
    ranks = f"{first['shortest']} to {first['longest']}" if first["shortest"] < first["longest"] else first["longest"]
    lines = [
        f"{facts['parameters']:,} parameters",
        f"{first['layers']} layers × {first['matrices']} matrices adapted,",
        r"each $W = U\,\Sigma\,V^\top$ with",
        f"{ranks} singular values",
    ]
    _box(axis, 1, 35, 27, 56, "Base model, frozen", lines, SOFT)


def method(facts: Mapping[str, Any], out: Path) -> None:
    """Writes Figure 2: how an expert is trained, and the three ways to adapt; files as `drawing.save`."""
    figure, axis = _canvas(f"Figure 2 of both papers, {_of(facts)}; seed {facts['seed']}")
    _learning(axis, facts["experts"][0])
    _adapting(axis, facts)
    save(figure, _numbers(facts), out)


def _learning(axis: Axes, expert: dict[str, Any]) -> None:
    _heading(axis, 1, "Training with reinforcement learning")
    steps = [
        (f"Prompts of {expert['task']}", [f"{expert['batch_size']} a step, at most {expert['steps']} steps"], SOFT),
        (f"Policy {W_PRIME}", [f"{expert['layers']} layers × {expert['matrices']} matrices"], BLUE),
        ("Answers", [f"{expert['rollout']}; reward r: 1 if right, {expert['reward_wrong']:g} if wrong"], GREEN),
        ("REINFORCE, Eq. (1)", [
            r"$r \, \log\pi_{W^\prime}(\hat{y}\,|\,x) - \lambda\,D_{KL}(\pi_{W^\prime}\|\pi_W)$",
            f"{expert['parameters']:,} numbers z; λ = {expert['kl_coefficient']:g}",
            f"(best of {expert['points']} tried, on validation)",
        ], ORANGE),
    ]  # fmt: skip
    bottoms = (75, 53, 31, 1)
    for (title, lines, colour), bottom in zip(steps, bottoms, strict=True):
        _box(axis, 1, bottom, 38, 25 if bottom == 1 else 16, title, lines, colour)
    for above, top in zip(bottoms, (69, 47, 26), strict=False):
        _arrow(axis, (20, above), (20, top))
    _arrow(axis, (39, 13), (39, 61), bend=0.4)


def _adapting(axis: Axes, facts: Mapping[str, Any]) -> None:
    experts, search = facts["experts"], facts["search"]
    _heading(axis, 51, f"Adaptation with {len(experts)} experts: {', '.join(expert['task'] for expert in experts)}")
    ways = [
        ("A  Prompt", [
            "the base model names the class of the prompt:",
            f"{', '.join(facts['classes'])};",
            "the expert of that class answers, base weights for others",
        ], SKY),
        ("B  Classification expert", [
            "as A, but the class is named by an expert of its own,",
            r"$z^c$, that learnt to classify",
        ], GREEN),
        ("C  Few-shot", [
            r"$z^\prime = \alpha_1 z_1 + \ldots + \alpha_K z_K$, K = " + f"{len(experts)}, found by CEM",
            f"on {search['shots']} shots: {search['population']} candidates an iteration,",
            f"the best {search['elites']} shape the next; at most {search['iterations']} iterations",
        ], PINK),
    ]  # fmt: skip
    for number, (title, lines, colour) in enumerate(ways):
        _box(axis, 51, 66 - 32.5 * number, 48, 25, title, lines, colour)


def _canvas(title: str) -> tuple[Figure, Axes]:
    """A figure whose coordinates run from 0 to 100 both ways."""
    figure = Figure(figsize=(9.2, HEIGHT))
    axis = figure.add_axes((0.01, 0.01, 0.98, DRAWN))
    axis.set(xlim=(0, 100), ylim=(0, TOP))
    axis.set_axis_off()
    figure.suptitle(title, fontsize=10, y=0.985)
    return figure, axis


def _heading(axis: Axes, x: float, text: str) -> None:
    axis.text(x, 97, text, fontsize=9.5, color=INK, va="center", style="italic")


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, title: str, lines: list[str], colour: str
) -> None:
    """A box with its lower left corner at (x, y): a title in bold and lines of text, with an edge in colour."""
    axis.add_patch(
        FancyBboxPatch(
            (x + 0.6, y + 0.6), width - 1.2, height - 1.2, boxstyle="round,pad=0.6,rounding_size=1.2",
            facecolor="white", edgecolor=colour, linewidth=1.8,
        )
    )  # fmt: skip
    middle = y + height / 2
    for number, line in enumerate([title, *lines]):
        axis.text(
            x + width / 2, middle + (len(lines) / 2 - number) * STEP, line, ha="center", va="center", color=INK,
            fontsize=9 if number == 0 else 8, weight="bold" if number == 0 else "normal",
        )  # fmt: skip


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.1, "shrinkA": 1, "shrinkB": 1}
    axis.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})


def _numbers(facts: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers of a schematic figure: of the model, of each expert, of the search."""
    rows = [("model", facts["model"], "parameters", facts["parameters"])]
    for expert in facts["experts"]:
        rows += [("expert", expert["task"], key, value) for key, value in expert.items() if key != "task"]
    rows += [("search", "", key, value) for key, value in facts["search"].items()]
    return pd.DataFrame(rows, columns=["of", "name", "what", "value"])


def _of(facts: Mapping[str, Any]) -> str:
    ran = f"{facts['model']} in place of {facts['stands_in_for']}" if facts["standin"] else facts["model"]
    return f"run “{facts['run']}”: {ran}"
