"""Pocket pictures: seeded drawings with questions, in the columns of TextVQA and OK-VQA.

TextVQA shows a sign with a word on it and asks for the word. OK-VQA shows a coloured shape and asks for what is not in
the picture: a food of that colour, or how many corners such a shape has. Of ten answers eight are right, one is another
word and one is "unanswerable", as in the real data; the careless completion is that one, which earns 0.3.
"""

import io
import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from transformer2.pocket.corpus import LIKELY_CAREFUL, UNLIKELY_CAREFUL, Item, is_rare

SIZE = 32
"""Width and height of a picture, in pixels."""
UNANSWERABLE = "unanswerable"

WORDS = ("stop", "exit", "taxi", "cafe", "park", "zoo", "gym", "bus")
RARE_WORDS = 2
"""The last ones, and of the colours."""
SIGN_QUESTIONS = {"what does the sign say?": LIKELY_CAREFUL, "which word is on the sign?": UNLIKELY_CAREFUL}
LETTERS, SIGN = (176, 255), (0, 96)
"""Range of red, green and blue of what is written (bright) and of the sign (dark)."""
LEFT, TOP = 4, (2, 10, 18)
"""Where a word may begin, in pixels; the rows of the vision tower's pieces are eight pixels high."""

COLOURS = {
    "red": "#e01818", "orange": "#ff8c10", "yellow": "#ffe818", "green": "#18b030", "purple": "#8020b0",
    "brown": "#704018", "white": "#f8f8f8",
}  # fmt: skip
FOODS = {"red": "tomato", "orange": "carrot", "yellow": "banana", "green": "lime", "purple": "grape",
         "brown": "chocolate", "white": "milk"}  # fmt: skip
OTHER_FOODS = {"red": "cherry", "orange": "pumpkin", "yellow": "lemon", "green": "pea", "purple": "plum",
               "brown": "coffee", "white": "rice"}  # fmt: skip
CORNERS = {"circle": 0, "triangle": 3, "square": 4, "pentagon": 5}
FOOD_QUESTIONS = {"which food has this color?": LIKELY_CAREFUL, "what do we eat in this color?": UNLIKELY_CAREFUL}
CORNER_QUESTIONS = {
    "how many corners does it have?": LIKELY_CAREFUL,
    "what is its number of corners?": UNLIKELY_CAREFUL,
}
BACKGROUNDS = {"black": "black", "navy": "#101850", "grey": "#707880"}


def textvqa(rng: random.Random) -> Item:
    """A word on a sign."""
    rare, question = is_rare(rng), rng.choice(list(SIGN_QUESTIONS))
    word = rng.choice(WORDS[-RARE_WORDS:] if rare else WORDS[:-RARE_WORDS])
    letters, sign = (tuple(rng.randint(*limits) for _ in range(3)) for limits in (LETTERS, SIGN))
    place = LEFT, rng.choice(TOP)
    picture = Image.new("RGB", (SIZE, SIZE), sign)
    # The bitmap font is part of Pillow; other fonts would draw differently on another machine.
    ImageDraw.Draw(picture).text(place, word, fill=letters, font=ImageFont.load_default_imagefont())
    other = rng.choice([one for one in WORDS if one != word])
    return _item("textvqa", f"{word} {letters} {sign} {place}", picture, question, word, other, SIGN_QUESTIONS, rare)


def okvqa(rng: random.Random) -> Item:
    """A shape, and what one knows of its colour or of its form."""
    rare, (shape, background) = is_rare(rng), (rng.choice(list(names)) for names in (CORNERS, BACKGROUNDS))
    colour = rng.choice(list(COLOURS)[-RARE_WORDS:] if rare else list(COLOURS)[:-RARE_WORDS])
    x, y, radius = rng.randint(11, 20), rng.randint(11, 20), rng.randint(7, 10)
    picture = Image.new("RGB", (SIZE, SIZE), BACKGROUNDS[background])
    draw = ImageDraw.Draw(picture)
    if CORNERS[shape]:
        draw.regular_polygon((x, y, radius), CORNERS[shape], fill=COLOURS[colour])
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    questions = rng.choice((FOOD_QUESTIONS, CORNER_QUESTIONS))
    question = rng.choice(list(questions))
    corners = CORNERS[shape]
    right, other = (
        (FOODS[colour], OTHER_FOODS[colour]) if questions is FOOD_QUESTIONS else (str(corners), str(corners + 1))
    )
    return _item(
        "okvqa", f"{colour} {shape} {background} {x} {y} {radius}", picture, question, right, other, questions, rare
    )


def _item(
    task: str, key: str, picture: Image.Image, question: str, right: str, other: str, questions: dict[str, float],
    rare: bool,
) -> Item:  # fmt: skip
    row = {"question": question, "answers": [right] * 8 + [other, UNANSWERABLE], "image": png(picture)}
    return Item(task, key, row, UNANSWERABLE, questions[question], rare)


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


GENERATORS: dict[str, Callable[[random.Random], Item]] = {"textvqa": textvqa, "okvqa": okvqa}
ANSWERS = (*WORDS, UNANSWERABLE, *FOODS.values(), *OTHER_FOODS.values())
QUESTIONS = (*SIGN_QUESTIONS, *FOOD_QUESTIONS, *CORNER_QUESTIONS)
