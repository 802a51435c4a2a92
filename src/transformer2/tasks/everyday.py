"""Everyday requests: prompts that are neither code nor mathematics nor reasoning.

They are the class "others" when the classification expert is trained and tested; the documents do not say what theirs
was made of, and the released code has no such prompts at all. Generated, so that no run has to download them.
"""

import zlib
from itertools import product

from transformer2.tasks.base import Row

LANGUAGES = ("French", "German", "Spanish", "Italian", "Polish")
WORDS = ("hello", "thank you", "good night", "see you soon", "happy birthday", "welcome", "sorry")
PEOPLE = ("my sister", "my boss", "a friend", "my teacher", "our neighbour", "my grandmother")
OCCASIONS = ("her birthday", "the holidays", "a long trip", "the new job", "the summer", "the weekend")
TOPICS = ("the sea", "autumn", "a small garden", "old trains", "the moon", "rain", "coffee", "a quiet street")
FORMS = ("a short poem", "a song", "a bedtime story", "a postcard", "a toast")
TEMPLATES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("How do I say {} in {}?", (WORDS, LANGUAGES)),
    ("Please write {} about {}.", (FORMS, TOPICS)),
    ("Write a letter to {} about {}.", (PEOPLE, OCCASIONS)),
    ("What would be a nice gift to {} for {}?", (PEOPLE, OCCASIONS)),
    ("Tell me something about {} in {}.", (TOPICS, LANGUAGES)),
)
BUCKETS = {"test": range(0, 3), "validation": range(3, 6), "train": range(6, 11), "pretraining": range(11, 16)}
"""Sixteenths of the requests, by their checksum."""


def prompts(split: str) -> list[str]:
    """All requests of a split, in a fixed order; `pretraining` is for stand-in models."""
    every = [template.format(*words) for template, slots in TEMPLATES for words in product(*slots)]
    return [text for text in every if zlib.crc32(text.encode()) % 16 in BUCKETS[split]]


def rows(split: str) -> list[Row]:
    """The requests of a split as rows of the task `classify`."""
    return [{"text": text, "class": "others"} for text in prompts(split)]
