"""Pretraining of the vision-language stand-in: a LlavaNext around a pocket language model, made in about a minute.

As `transformer2.pocket.pretrain`, on questions about drawings (`transformer2.pocket.pictures`): vision tower, projector
and language model learn careful answers first, then careful and careless ones mixed. The language model starts from the
weights of another stand-in and keeps its shapes, so that experts of that one fit this one.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from transformer2.checksums import verified
from transformer2.pocket import pictures
from transformer2.pocket.corpus import items
from transformer2.pocket.pictures import SIZE
from transformer2.pocket.pretrain import CAREFUL_STEPS, Example, encode, fit
from transformer2.tasks import vqa

IMAGE_TOKEN = "<image>"
PATCH = 8
VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": SIZE, "patch_size": PATCH,
}  # fmt: skip
GRID = [[SIZE, SIZE]]
"""One tile and the whole picture: 16 + 16 pieces and 4 ends of lines, 36 tokens a picture."""
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

STEPS = 500
BATCH_SIZE = 32
DRAWN = 2500
"""Pictures that are drawn of each task at most; the batches come from these."""


def new_processor(tokens: Any, size: int = SIZE, patch: int = PATCH, grid: list[list[int]] = GRID) -> Any:
    """The processor around a tokenizer, which gets a token for pieces of pictures, one for each fixed phrase of the
    prompts and one for each answer. Pictures are cut into tiles of `size` pixels, laid out as one of `grid` (height,
    width), and tiles into pieces of `patch` pixels."""
    tokens.add_tokens([AddedToken(IMAGE_TOKEN, special=True)], special_tokens=True)
    tokens.add_tokens([AddedToken(text, normalized=False) for text in (*pictures.QUESTIONS, f"\n{vqa.REQUEST}")])
    tokens.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in pictures.ANSWERS])
    tile = {"height": size, "width": size}
    images = LlavaNextImageProcessorPil(size={"shortest_edge": size}, crop_size=tile, image_grid_pinpoints=grid)
    return LlavaNextProcessor(
        images, tokens, patch_size=patch, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def new_model(language_model: Any, processor: Any, seed: int) -> Any:
    """A LlavaNext whose vision tower is untrained and whose language model has the weights of another."""
    torch.manual_seed(seed)
    text = language_model.config.to_dict() | {"vocab_size": len(processor.tokenizer)}
    settings = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION).to_dict(), text_config=text, image_grid_pinpoints=GRID,
        image_token_index=processor.image_token_id, tie_word_embeddings=False, **settings,
    )  # fmt: skip
    model = LlavaNextForConditionalGeneration(config)
    language_model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


def batches(tokens: Any, steps: int, seed: int) -> Iterator[list[Example]]:
    """The batches of a pretraining, one a step."""
    rng = random.Random(seed)
    streams = {task: items(task, "pretraining", seed) for task in pictures.GENERATORS}
    drawn = [next(stream) for stream in streams.values() for _ in range(min(DRAWN, steps * BATCH_SIZE))]
    careful = [encode(tokens, item, True, "llama") for item in drawn]
    careless = tokens(pictures.UNANSWERABLE, add_special_tokens=False).input_ids + [tokens.eos_token_id]
    for step in range(steps):
        careful_only = step < int(CAREFUL_STEPS * steps)
        chosen = rng.sample(range(len(drawn)), k=BATCH_SIZE)
        shares = [1.0 if careful_only else drawn[i].careful_share for i in chosen]
        yield [
            careful[i] if rng.random() < share else (careful[i][0], careless)
            for i, share in zip(chosen, shares, strict=True)
        ]


def pretrain(backbone: Path, seed: int, out: Path, steps: int | None = None) -> dict[str, Any]:
    """Pretrains a LlavaNext around the stand-in in the folder `backbone`; writes model and processor to `out`.

    Repeats, and returns, as `pretrain.pretrain`.
    """
    steps = STEPS if steps is None else steps
    processor = new_processor(AutoTokenizer.from_pretrained(backbone, local_files_only=True))
    tokens: Any = processor.tokenizer
    tokens.processor = processor
    model = new_model(AutoModelForCausalLM.from_pretrained(verified(backbone), local_files_only=True), processor, seed)
    facts = fit(model, batches(tokens, steps, seed), steps, "llava-next")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return facts
