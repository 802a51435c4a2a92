"""Options of the commands, by what they mean."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def _number(text: str, least: int = 1) -> typer.models.OptionInfo:
    return typer.Option(help=text, min=least)


Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="where to measure")]
Model = Annotated[
    str, typer.Option(help="folder of transformers, or random weights of a shape: pocket, smollm2, llama3-8b")
]
Folder = Annotated[Path, typer.Option(help="folder of transformers, with its tokenizer", exists=True, file_okay=False)]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="that the model runs in")]
Repeats = Annotated[int, _number("timed runs of each side; the median counts")]
Answers = Annotated[int, _number("answers of a batch")]
Prompts = Annotated[int, _number("prompts to answer")]
PromptTokens = Annotated[int, _number("tokens of a prompt")]
SharedTokens = Annotated[int, _number("tokens with which every prompt begins")]
AnswerTokens = Annotated[int, _number("tokens of an answer, at most")]
MicroBatch = Annotated[int, _number("tokens of one forward and backward pass of ours")]
BatchRows = Annotated[int, _number("prompts that are answered side by side")]
Rank = Annotated[int, _number("rank of LoRA")]
Candidates = Annotated[int, _number("candidates of a generation")]
Experts = Annotated[int, _number("experts that are mixed")]
Layers = Annotated[int, _number("decoder layers whose matrices are decomposed")]
Programs = Annotated[int, _number("programs to run")]
Workers = Annotated[int, _number("programs that run at the same time")]
Completions = Annotated[int, _number("answers to each prompt", 2)]
