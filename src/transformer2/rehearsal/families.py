"""Models of a rehearsal: classes, chat templates and special tokens of the real ones; shapes cut, weights random."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextProcessor,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from transformer2.pocket import vision
from transformer2.pocket.corpus import GENERATORS, items
from transformer2.pocket.tokenizer import word_bpe
from transformer2.tasks import TASKS, classify, vqa

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
}
VOCABULARY, DRAWN = 1024, 60
"""Tokens of every family; texts of each task that the words among them are learnt from."""

LLAMA_3_TURNS = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL_TURNS = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}{{ bos_token }}"
    "{% for message in (messages[1:] if system is not none else messages) %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('after an optional system message, user and assistant must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}"
    "[INST] {% if loop.last and system is not none %}{{ system + '\n\n' }}{% endif %}{{ message.content }}[/INST]"
    "{% else %} {{ message.content + eos_token }}{% endif %}{% endfor %}"
)
CHATML_TURNS = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TURNS = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What the models of one family have in common: class, special tokens, chat template."""

    model: type[PreTrainedModel]
    config: type[PretrainedConfig]
    template: str
    special: tuple[str, ...]
    """All special tokens, as the template writes them."""
    bos: str
    eos: str
    """What ends a turn."""
    begins: bool = True
    """Whether its tokenizer puts the BOS before every text."""
    pad: str | None = None
    ends: tuple[str, ...] = ()
    """What ends an answer, where that is more than one token."""
    more: dict[str, Any] = field(default_factory=dict)
    """Settings of the model's configuration."""


LLAMA_3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES: dict[str, Family] = {
    "llama-3": Family(
        LlamaForCausalLM, LlamaConfig, "{{ bos_token }}" + LLAMA_3_TURNS, LLAMA_3_SPECIAL, "<|begin_of_text|>",
        "<|eot_id|>", ends=("<|end_of_text|>", "<|eot_id|>"), more={"num_hidden_layers": 2},
    ),
    "llama-3-deep": Family(
        LlamaForCausalLM, LlamaConfig, "{{ bos_token }}" + LLAMA_3_TURNS, LLAMA_3_SPECIAL, "<|begin_of_text|>",
        "<|eot_id|>", ends=("<|end_of_text|>", "<|eot_id|>"), more={"num_hidden_layers": 4},
    ),
    "mistral": Family(
        MistralForCausalLM, MistralConfig, MISTRAL_TURNS, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>",
        more={"num_hidden_layers": 2, "sliding_window": None},
    ),
    "chatml": Family(
        LlamaForCausalLM, LlamaConfig, CHATML_TURNS, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_start|>",
        "<|im_end|>", begins=False, pad="<|im_end|>", more={"num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
    "qwen2.5": Family(
        Qwen2ForCausalLM, Qwen2Config, CHATML_TURNS, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>",
        "<|im_end|>", begins=False, pad="<|endoftext|>", ends=("<|im_end|>", "<|endoftext|>"),
        more={"num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
}  # fmt: skip
"""Llama 3 of two depths, Mistral 7B v0.3, ChatML models such as SmolLM2, and Qwen 2.5, whose q, k and v have biases.
A LlavaNext is built around Llama 3."""
LLAVA_NEXT = "llava-next"


def fetch(stands_for: str, seed: int, out: Path) -> dict[str, Any]:
    """Writes a tiny model of random weights to `out`; returns what is worth knowing about it.

    `stands_for` is `<family>:<source of the real model>`. The family `folder` keeps the class, the tokenizer and all
    settings but the sizes of the model in that folder.

    Raises:
        ValueError: a family that is not known, or a folder that is missing.
    """
    family, _, real = stands_for.partition(":")
    torch.manual_seed(seed)
    if family == "folder":
        _cut(Path(real.removeprefix("dir:")), out)
    elif family == LLAVA_NEXT:
        _llava_next(out, seed)
    elif family in FAMILIES:
        tokens = new_tokenizer(FAMILIES[family])
        new_model(FAMILIES[family], tokens).save_pretrained(out)
        tokens.save_pretrained(out)
    else:
        raise ValueError(f"unknown family {family!r}; valid are {', '.join([*FAMILIES, LLAVA_NEXT, 'folder'])}")
    return {"family": family, "rehearses": real}


def new_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer with the family's special tokens and template, and the words of the tasks' prompts."""
    begin = family.bos if family.begins else None
    bpe = word_bpe(_texts(), [], family.special, begin, VOCABULARY)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> Iterator[str]:
    """Prompts and answers of every task."""
    drawn = chain.from_iterable(islice(items(task, "train"), DRAWN) for task in GENERATORS)
    for item in drawn:
        task = TASKS[item.task]
        prompt = task.prompt(item.row)
        yield "\n".join([*(message["content"] for message in prompt.messages), prompt.text, task.solution(item.row)])
    yield from (classify.SYSTEM, vqa.REQUEST) * DRAWN


def new_model(family: Family, tokens: Any) -> Any:
    """An untrained model of a family."""
    special = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id}
    settings = {"tie_word_embeddings": False} | SHAPE | family.more | special | {"vocab_size": len(tokens)}
    config: Any = family.config
    model: Any = family.model(config(**settings, pad_token_id=tokens.pad_token_id))
    if family.ends:
        model.generation_config.eos_token_id = [tokens.convert_tokens_to_ids(token) for token in family.ends]
    return model


def _llava_next(out: Path, seed: int) -> None:
    """A LlavaNext whose language model has the shapes of the family `llama-3`, so that experts of that one fit."""
    tokens = new_tokenizer(FAMILIES["llama-3"])
    tokens.pad_token = tokens.eos_token
    tokens.add_tokens([vision.IMAGE_TOKEN], special_tokens=True)
    tile = {"height": vision.SIZE, "width": vision.SIZE}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": vision.SIZE}, crop_size=tile, image_grid_pinpoints=vision.GRID
    )
    processor = LlavaNextProcessor(
        images, tokens, patch_size=vision.PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA_TURNS,
    )  # fmt: skip
    vision.new_model(new_model(FAMILIES["llama-3"], tokens), processor, seed).save_pretrained(out)
    processor.save_pretrained(out)


def _cut(folder: Path, out: Path) -> None:
    """A language model as the one in `folder`, with the sizes of a rehearsal."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    config, tokens = (kind.from_pretrained(folder, local_files_only=True) for kind in (AutoConfig, AutoTokenizer))
    if hasattr(config, "vision_config"):
        raise ValueError(f"{folder}: no vision-language model of one's own can be rehearsed; only LlavaNext's class is")
    for name, value in (SHAPE | {"num_hidden_layers": 2, "head_dim": 16, "layer_types": None}).items():
        if hasattr(config, name):
            setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    tokens.save_pretrained(out)
