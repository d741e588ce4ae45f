"""``seqmix generate``: continue a text with a causal language model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqmix.commands._function import call
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import Mixer
from seqmix.models import TokenModel

# tokens of a prompt per forward pass
_CHUNK = 1024


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(generate, command, argv)


def generate(
    *,
    config: str | None = None,
    ckpt_path: str | None = None,
    prompt: str = "",
    prompts: str | None = None,
    tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> None:
    """Continue a text, or several, with a causal language model.

    Args:
        config: config of the model. Default: the ``config.yaml`` beside the checkpoint.
        ckpt_path: checkpoint: a file; or ``best`` or ``last`` of the newest run of ``config``. Default: ``best``.
        prompt: beginning of the text.
        prompts: file with a prompt in each line; the texts are printed with an empty line between them.
        tokens: maximum number of tokens to add; the model may end a text before.
        temperature: divisor of the scores; 0 takes the most likely token.
        top_k: sample from the k most likely tokens. Default: from all.
        top_p: sample from the most likely tokens that together have this probability. Default: from all.
        seed: seed of the draws.
    """
    if tokens < 1 or not temperature >= 0:
        raise ConfigError(
            f"tokens = {tokens} must be at least 1, temperature = {temperature} at least 0; use 200 and 1"
        )
    if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ConfigError(f"top_k = {top_k} must be at least 1, top_p = {top_p} above 0 and at most 1; use 40 and 0.9")
    texts = [prompt] if prompts is None else _lines(prompts)
    # it brings lightning
    from seqmix.commands._trained import trained_language_model

    model, tokenizer = trained_language_model(config, ckpt_path)
    begins = [[tokenizer.cls, *part.tolist()] for part in tokenizer.encode([text.encode() for text in texts])]
    _check(model, max(map(len, begins)) + tokens)
    ended = torch.zeros(len(begins), dtype=torch.bool)
    for drawn in sample(model, begins, tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed):
        ended |= drawn == tokenizer.sep
        for begin, token, over in zip(begins, drawn.tolist(), ended.tolist(), strict=True):
            if not over:
                begin.append(token)
        if ended.all():
            break
    print("\n\n".join(tokenizer.decode(begin) for begin in begins))


@torch.inference_mode()
def sample(
    model: TokenModel,
    begins: Sequence[Sequence[int]],
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Draw ``count`` tokens after each text, ``(B,)`` at a time; all take the same time and memory.

    Args:
        model: the model, in evaluation mode.
        begins: tokens before, at least one in each text.
        count: how many to draw.
        temperature: divisor of the scores; 0 takes the most likely token.
        top_k: sample from the k most likely tokens. Default: from all.
        top_p: sample from the most likely tokens that together have this probability. Default: from all.
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, begins))
    # padding on the left: the last position is the last token of every text
    read = torch.tensor([[0] * (longest - len(begin)) + list(begin) for begin in begins])
    mask = torch.tensor([[False] * (longest - len(begin)) + [True] * len(begin) for begin in begins])
    scores, state = torch.empty(0), model.init_state(len(begins))
    for part, kept in zip(read.split(_CHUNK, 1), mask.split(_CHUNK, 1), strict=True):
        scores, state = model.prefill(part, None if kept.all() else kept, state=state)
    for i in range(count):
        tokens = draw(scores, generator, temperature=temperature, top_k=top_k, top_p=top_p)
        yield tokens
        if i + 1 < count:
            scores, state = model.step(tokens, state)


def draw(
    scores: Tensor, generator: torch.Generator, *, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Draw a token for each row of ``scores: (B, vocab_size)``."""
    if temperature == 0:
        return scores.argmax(-1)
    scores = scores.float() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    chances = scores.softmax(-1)
    if top_p is not None:
        falling, order = chances.sort(-1, descending=True)
        # the token that crosses the threshold is kept
        beyond = falling.cumsum(-1) - falling >= top_p
        chances = chances.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)


def _check(model: TokenModel, length: int) -> None:
    """Raise ``ConfigError`` if the model cannot go on token by token, or not as far as ``length``."""
    mixers = [m for m in model.backbone.modules() if isinstance(m, Mixer) and not m.pointwise]
    unable = sorted({type(m).__name__ for m in mixers if type(m).step is Mixer.step})
    if unable:
        raise ConfigError(
            f"{', '.join(unable)} has no step(), so that a text cannot be continued; define init_state() and step() "
            "beside forward(), seqmix.testing.check_mixer compares them"
        )
    if model.place is not None and length > len(model.place.weight):
        raise ConfigError(
            f"the model learned {len(model.place.weight)} positions, prompt and tokens take {length}; ask for fewer, "
            "or train one with positions: false"
        )


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"prompts = {path!r} cannot be read ({e}); give a text file with a prompt in each line") from e
    if not lines:
        raise DataError(f"prompts = {path!r} is empty; give a text file with a prompt in each line")
    return lines
