"""The stand-ins' tokenizer: a byte-level BPE of a few hundred whole words, trained on the pocket corpus."""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WORDS = r" ?\d| ?[A-Za-z_]+| ?[^\sA-Za-z\d_]+|\s+"
"""Pieces that BPE merges within: a digit, a word, a run of signs (each with the space before it), white space."""


def train_tokenizer(texts: Iterable[str], phrases: Sequence[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Learns the words of `texts`; each of `phrases` (the fixed instructions of the tasks) becomes one ordinary token.

    The first token of every encoded text is BOS, and the chat template writes BOS too, as in the Llama-3 tokenizer:
    a text that comes from the template must be encoded with `add_special_tokens=False`.
    """
    bpe = word_bpe(texts, phrases, [BOS, EOS, PAD, *ROLES], BOS, vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def word_bpe(
    texts: Iterable[str], phrases: Sequence[str], special: Sequence[str], begin: str | None, vocab_size: int
) -> Tokenizer:
    """A byte-level BPE of whole words with these special tokens; it puts `begin`, one of them, before every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((_without(text, phrases) for text in texts), trainer)
    bpe.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    if begin is not None:
        first = (begin, bpe.token_to_id(begin))
        bpe.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[first])
    return bpe


def _without(text: str, phrases: Sequence[str]) -> str:
    for phrase in phrases:
        text = text.replace(phrase, "\n")
    return text
