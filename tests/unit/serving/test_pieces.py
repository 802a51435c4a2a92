"""Pieces of text against their naive twin: the text of all tokens, cut before the first stop string."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from helpers import tokenizer
from transformer2.rollout.engine import Sampling, text_of
from transformer2.serving.pieces import Pieces

WORDS = tokenizer()


def pieces_of(words, tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces up to the end or the first stop string, and whether there was one."""
    pieces, told = Pieces(words, stop), []
    for token in tokens:
        told.append(pieces.add(token))
        if pieces.stopped:
            break
    return [*told, pieces.end()], pieces.stopped


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_tokens_are_together_their_text(seed):
    tokens = random.Random(seed).choices(range(len(WORDS)), k=80)  # most of them single bytes, and special ones
    told, stopped = pieces_of(WORDS, tokens)
    assert "".join(told) == text_of(WORDS, tokens, Sampling(80)) and not stopped


@pytest.mark.parametrize("text", ["ein Wörtchen – 你好 🙂🙂 ok", "🙂", "naïve\n\n  two  blanks ", ""])
def test_no_piece_holds_a_part_of_a_character(text):
    told, _ = pieces_of(WORDS, WORDS(text, add_special_tokens=False).input_ids)
    assert "".join(told) == text and all(not piece or "\ufffd" not in piece for piece in told)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stop", [("ab",), ("aab", "bc"), ("b", "abc"), ("abcab",), ("🙂",)])
def test_stop_strings_end_a_text_where_they_end_the_whole_one(seed, stop):
    text = "".join(random.Random(seed).choices(["a", "b", "c", "🙂"], k=30))
    tokens = WORDS(text, add_special_tokens=False).input_ids
    told, stopped = pieces_of(WORDS, tokens, stop)
    ends = [n for n in range(1, len(tokens) + 1) if any(one in WORDS.decode(tokens[:n]) for one in stop)]
    assert "".join(told) == text_of(WORDS, tokens[: ends[0] if ends else None], Sampling(30, stop=stop))
    assert stopped == bool(ends)


def test_a_possible_beginning_of_a_stop_string_waits_and_nothing_else():
    told, stopped = pieces_of(WORDS, [WORDS.convert_tokens_to_ids(letter) for letter in "xaay"], ("ab",))
    assert told == ["x", "", "a", "ay", ""] and not stopped
    told, _ = pieces_of(WORDS, [WORDS.convert_tokens_to_ids(letter) for letter in "xa"], ("ab",))
    assert told == ["x", "", "a"]


def test_blanks_stay_with_tokenizers_that_drop_the_first_one():
    bpe = Tokenizer(
        models.BPE({"<unk>": 0, "▁one": 1, "▁two": 2, "s": 3, "<0xC3>": 4, "<0xA9>": 5}, [], byte_fallback=True)
    )
    bpe.normalizer = normalizers.Prepend("▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    words = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>")
    tokens = [1, 3, 2, 4, 5, 0, 2, 1]
    told, _ = pieces_of(words, tokens)
    assert "".join(told) == words.decode(tokens, skip_special_tokens=True) == "ones twoé two one"
    assert told[:5] == ["one", "s", " two", "", "é"]
