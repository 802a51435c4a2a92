"""Everyday requests: prompts that are neither code nor mathematics nor reasoning.

They are the class "others" when the classification expert is trained and tested; the papers do not say what theirs
was made of, and the released code has no such prompts at all. Generated, so that no run has to download them.
"""

import zlib
from functools import cache
from itertools import product

from transformer2.tasks.base import Row

LANGUAGES = ("French", "German", "Spanish", "Italian", "Polish")
WORDS = ("hello", "thank you", "good night", "see you soon", "happy birthday", "welcome", "sorry")
PEOPLE = ("my sister", "my boss", "a friend", "my teacher", "our neighbour", "my grandmother")
OCCASIONS = ("her birthday", "the holidays", "a long trip", "the new job", "the summer", "the weekend")
TOPICS = ("the sea", "autumn", "a small garden", "old trains", "the moon", "rain", "coffee", "a quiet street")
FORMS = ("a short poem", "a song", "a bedtime story", "a postcard", "a toast")
POCKET: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("How do I say {} in {}?", (WORDS, LANGUAGES)),
    ("Please write {} about {}.", (FORMS, TOPICS)),
    ("Write a letter to {} about {}.", (PEOPLE, OCCASIONS)),
    ("What would be a nice gift to {} for {}?", (PEOPLE, OCCASIONS)),
    ("Tell me something about {} in {}.", (TOPICS, LANGUAGES)),
)
"""Requests of few words: the only ones that stand-in models are pretrained on."""

DISHES = (
    "lentil soup", "mushroom risotto", "roast chicken", "vegetable curry", "apple pie", "pancakes", "fish tacos",
    "potato salad", "homemade pizza", "stuffed peppers", "beef stew", "banana bread", "spinach lasagne", "fried rice",
)  # fmt: skip
PLACES = (
    "Lisbon", "Kyoto", "Vienna", "Istanbul", "Edinburgh", "Marrakesh", "Prague", "Buenos Aires", "Copenhagen", "Naples",
    "Montreal", "Hanoi", "Dublin", "Athens",
)  # fmt: skip
HOBBIES = (
    "knitting", "birdwatching", "playing the ukulele", "watercolour painting", "baking bread", "chess", "pottery",
    "night photography", "hiking", "collecting stamps", "learning to dance", "calligraphy", "growing tomatoes",
)  # fmt: skip
RELATIVES = (
    "my mother", "my landlord", "an old colleague", "my cousin", "the new neighbours", "my daughter's teacher",
    "my best friend", "our team", "my grandfather", "the people upstairs", "my aunt", "our wedding guests",
)  # fmt: skip
NEWS = (
    "moving to another city", "a change of plans for Sunday", "the noise last night", "a surprise party",
    "being late with an answer", "the birth of our son", "a lost umbrella", "the end of my studies",
    "borrowing a ladder", "the dinner on Friday",
)  # fmt: skip
CHARACTERS = (
    "a shy lighthouse keeper", "a cat who runs a bakery", "a retired pirate", "two sisters on a night train",
    "a robot that is afraid of rain", "the last bookshop in town", "a gardener who talks to roses", "a lost suitcase",
    "a clockmaker without customers", "an owl who cannot sleep", "a boy who finds an old map", "a village under snow",
)  # fmt: skip
MOODS = (
    "nervous before a job interview", "homesick", "bored on a rainy day", "sad about a friend who moved away",
    "too tired to cook", "proud of my first marathon", "annoyed with my flatmate", "lonely in a new town",
    "stressed about the exams", "excited about the concert", "guilty about saying no", "restless at night",
)  # fmt: skip
PETS = ("puppy", "old cat", "parrot", "rabbit", "goldfish", "hamster", "tortoise", "pony")
ROOMS = ("a tiny kitchen", "a dark hallway", "my balcony", "the guest room", "a home office", "the children's room",
         "an old bathroom", "a rented flat")  # fmt: skip
SUBJECTS = (
    "my holiday in Norway", "an espresso machine", "a neighbourhood flea market", "a used bicycle for sale",
    "our small hotel by the lake", "a concert in the park", "a weekly yoga class", "a lost grey kitten",
    "a second-hand sofa", "our school play",
)  # fmt: skip
TONES = ("a cheerful", "a polite", "a short", "a funny", "a touching")
GENRES = (
    "historical novels", "slow jazz", "nature documentaries", "Italian films", "board games for two",
    "romantic comedies", "detective stories", "folk music", "podcasts about travel", "comics for children",
)  # fmt: skip
ARTS = ("impressionist painting", "flamenco", "Japanese gardens", "Art Deco", "opera", "street photography",
        "Irish folk dance", "silent films", "Baroque churches", "carnival masks")  # fmt: skip
PHRASES = (
    "where is the station", "I would like the bill, please", "have a safe journey", "it is a pleasure to meet you",
    "my luggage is lost", "do you have a free table", "get well soon", "congratulations on the wedding",
)  # fmt: skip
TONGUES = ("Portuguese", "Swedish", "Japanese", "Turkish", "Dutch", "Greek")
GENERAL: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("Can you give me a simple recipe for {}?", (DISHES,)),
    ("What goes well with {} when friends come over?", (DISHES,)),
    ("How can I make {} taste less bland?", (DISHES,)),
    ("I have leftover {}. What should I do with it tomorrow?", (DISHES,)),
    ("Describe {} so that I get hungry.", (DISHES,)),
    ("What should I see in {} on a rainy day?", (PLACES,)),
    ("Recommend a quiet neighbourhood to stay in {}.", (PLACES,)),
    ("Which local food should I try in {}?", (PLACES,)),
    ("Write a short diary entry about an evening in {}.", (PLACES,)),
    ("What do visitors often get wrong about {}?", (PLACES,)),
    ("Pack a suitcase with me for a week in {}: what should go in?", (PLACES,)),
    ("I want to start {}. What do I need?", (HOBBIES,)),
    ("Why do people enjoy {} so much?", (HOBBIES,)),
    ("Write a limerick about {}.", (HOBBIES,)),
    ("How do I talk my partner into {} with me?", (HOBBIES,)),
    ("Write {} message to {} about {}.", (TONES[:3], RELATIVES, NEWS)),
    ("How do I tell {} about {} without hurting anyone?", (RELATIVES[:6], NEWS)),
    ("What could we cook together with {}?", (RELATIVES,)),
    ("Suggest a thoughtful present for {}.", (RELATIVES,)),
    ("Tell me a story about {}.", (CHARACTERS,)),
    ("Write the opening lines of a novel about {}.", (CHARACTERS,)),
    ("Write a dialogue between {} and {}.", (CHARACTERS[:6], CHARACTERS[6:])),
    ("Invent a title for a children's book about {}.", (CHARACTERS,)),
    ("I am {}. What could help me?", (MOODS,)),
    ("My brother is {}. What should I say to him?", (MOODS,)),
    ("Write a few kind words for someone who is {}.", (MOODS,)),
    ("Suggest some music for when I am {}.", (MOODS,)),
    ("What is a good name for a {}?", (PETS,)),
    ("My {} does not want to eat. What might be wrong?", (PETS,)),
    ("How do I introduce a {} to small children?", (PETS,)),
    ("Write a poem in honour of my {}.", (PETS,)),
    ("How can I make {} look more inviting?", (ROOMS,)),
    ("Which colours suit {}?", (ROOMS,)),
    ("Which plants would do well in {}?", (ROOMS,)),
    ("Write {} advertisement for {}.", (TONES, SUBJECTS)),
    ("Put into one friendly sentence what is special about {}.", (SUBJECTS,)),
    ("Write an online review of {}.", (SUBJECTS[:7],)),
    ("Which {} would you recommend to a beginner?", (GENRES,)),
    ("Why are {} so popular again?", (GENRES,)),
    ("My parents love {}. What else might they like?", (GENRES,)),
    ("Explain {} to a tourist in a few sentences.", (ARTS,)),
    ("What do you find beautiful about {}?", (ARTS,)),
    ("Where did {} come from?", (ARTS,)),
    ('Translate "{}" into {}.', (PHRASES, TONGUES)),
    ('In {}, is it polite to say "{}" to a stranger?', (TONGUES, PHRASES)),
)
"""Requests in the words of users of real models."""
BUCKETS = {"test": range(0, 3), "validation": range(3, 6), "train": range(6, 11), "pretraining": range(11, 16)}
"""Sixteenths of the requests, by their checksum; `train` has the last five of the general ones, too."""


@cache
def prompts(split: str) -> list[str]:
    """All requests of a split, in a fixed order; `pretraining` is for stand-in models."""
    general = {*BUCKETS[split]} if split != "train" else {*BUCKETS["train"], *BUCKETS["pretraining"]}
    own = [text for text in _texts(POCKET) if _bucket(text) in BUCKETS[split]]
    return own + [text for text in _texts(GENERAL) if _bucket(text) in general and split != "pretraining"]


def _texts(templates: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]) -> list[str]:
    return [template.format(*words) for template, slots in templates for words in product(*slots)]


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode()) % 16


def rows(split: str) -> list[Row]:
    """The requests of a split as rows of the task `classify`."""
    return [{"text": text, "class": "others"} for text in prompts(split)]
