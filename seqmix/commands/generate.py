"""``seqmix generate``: text from a causal language model, one token at a time, in constant memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from seqmix.commands._function import call
from seqmix.commands.train import Train
from seqmix.data.text.corpora import Corpus
from seqmix.errors import ConfigError
from seqmix.models import TokenModel
from seqmix.tasks import CausalLM


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(generate, command, argv)


def generate(
    *,
    ckpt_path: str = "best",
    config: str | None = None,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Continue a text.

    Args:
        ckpt_path: checkpoint: a file; or ``best`` or ``last`` of the newest run of ``config``.
        config: config of the model; the ``config.yaml`` beside the checkpoint if not given.
        prompt: beginning of the text.
        tokens: how many tokens to add.
        temperature: scores are divided by it: below 1 for likelier tokens, 0 for the likeliest one only.
        seed: seed of the draws.
    """
    if tokens < 1 or temperature < 0:
        raise ConfigError(
            f"tokens = {tokens} must be at least 1, temperature = {temperature} at least 0; use 200 and 1"
        )
    if config is None:
        beside = Path(ckpt_path).parent / "config.yaml"
        if ckpt_path in ("best", "last") or not beside.is_file():
            raise ConfigError(f"ckpt_path = {ckpt_path!r} has no config.yaml beside it; pass --config, as to fit")
        config = str(beside)
    cli = Train("validate", ["--config", config, "--ckpt_path", ckpt_path])
    task, data = cli.model, cli.datamodule
    if not isinstance(task, CausalLM) or not isinstance(data, Corpus):
        raise ConfigError(
            f"`seqmix generate` needs a causal language model, {type(task).__name__} is none; fit CausalLM"
        )
    # never None: it was asked for
    state = torch.load(cast(Path, cli.ckpt_path), map_location="cpu", weights_only=True)
    task.on_load_checkpoint(state)
    task.load_state_dict(state["state_dict"])
    tokenizer = data.tokenizer
    begin = [tokenizer.cls, *tokenizer.encode([prompt.encode()])[0].tolist()]
    place, length = task.model.place, len(begin) + tokens
    if place is not None and length > len(place.weight):
        raise ConfigError(
            f"the model learned {len(place.weight)} positions, prompt and tokens take {length}; ask for fewer, or "
            "train one with positions: false"
        )
    text = list(begin)
    for token in sample(task.model.eval(), begin, tokens, temperature, seed):
        if token == tokenizer.sep:
            break
        text.append(token)
    print(tokenizer.decode(text))


@torch.inference_mode()
def sample(model: TokenModel, begin: list[int], count: int, temperature: float, seed: int) -> Iterator[int]:
    """Draw ``count`` tokens after ``begin``; every one takes the same time and memory where the mixers' states do.

    Args:
        model: the model, in evaluation mode.
        begin: tokens before, at least one.
        count: how many to draw.
        temperature: scores are divided by it; 0 for the likeliest token.
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(1)
    scores = torch.empty(0)
    for token in begin:
        scores, state = model.step(torch.tensor([token]), state)
    for i in range(count):
        token = _draw(scores[0], temperature, generator)
        yield token
        if i + 1 < count:
            scores, state = model.step(torch.tensor([token]), state)


def _draw(scores: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(scores.argmax())
    return int(torch.multinomial((scores.float() / temperature).softmax(-1), 1, generator=generator))
