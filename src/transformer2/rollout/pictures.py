"""Prompts about a picture, for models whose token ids stand for pieces of it."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from transformer2.tasks.base import Picture


class PicturePrompt(list[int]):
    """Token ids of a prompt, together with the picture that some of them stand for.

    The picture is read and turned into pixels where a batch is made: those of a whole test set of real pictures would
    fill the memory.
    """

    def __init__(self, ids: Sequence[int], picture: Picture, image_processor: Any):
        super().__init__(ids)
        self.picture, self.image_processor = picture, image_processor


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of a picture file."""
    return picture if isinstance(picture, bytes) else picture.read_bytes()


def decode_picture(picture: Picture) -> Image.Image:
    """The pixels of a picture file.

    Raises:
        ValueError: it is gone, corrupt or no picture.
    """
    try:
        return Image.open(io.BytesIO(picture_bytes(picture))).convert("RGB")
    except (OSError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        name = "a picture" if isinstance(picture, bytes) else f"the picture {picture}"
        raise ValueError(f"{name} cannot be read ({error}): make the data again") from None


def picture_prompt_ids(processor: Any, messages: Sequence[dict[str, str]], picture: Picture) -> list[int]:
    """Token ids of messages of which the last one is about the picture, shown before its text.

    The processor puts one token in place of every piece of the picture that the model will see.
    """
    contents: list[list[dict[str, str]]] = [[{"type": "text", "text": message["content"]}] for message in messages]
    contents[-1].insert(0, {"type": "image"})
    chat = [{"role": message["role"], "content": part} for message, part in zip(messages, contents, strict=True)]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return processor(images=decode_picture(picture), text=text, add_special_tokens=False)["input_ids"][0]


def prompt_text(tokenizer: Any, prompt: list[int]) -> str:
    """A prompt in words; a picture is one token in it, and not as many as the model sees."""
    if isinstance(prompt, PicturePrompt):
        image = tokenizer.processor.image_token_id
        prompt = [token for i, token in enumerate(prompt) if token != image or prompt[i - 1] != image]
    return str(tokenizer.decode(prompt))


def picture_inputs(prompts: Sequence[list[int]], device: Any) -> dict[str, Tensor]:
    """What a model takes beside the token ids of a batch: pixel_values (batch, most tiles, 3, height, width), empty
    tiles behind those of smaller pictures, and image_sizes (batch, 2). Nothing for prompts without pictures.

    Raises:
        ValueError: some prompts of the batch have a picture, and others have none.
    """
    shown = [prompt for prompt in prompts if isinstance(prompt, PicturePrompt)]
    if not shown:
        return {}
    if len(shown) != len(prompts):
        raise ValueError(f"{len(shown)} of the {len(prompts)} prompts of a batch have a picture: all or none must")
    inputs = shown[0].image_processor([decode_picture(prompt.picture) for prompt in shown], return_tensors="pt")
    return {name: inputs[name].to(device) for name in ("pixel_values", "image_sizes")}
