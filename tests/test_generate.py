"""Generation: steps equal the parallel form, drawn as asked, and say what is missing."""

from functools import partial

import pytest
import torch

from seqmix.cli import run
from seqmix.commands.generate import _draw, sample
from seqmix.mixers import EMA, S4D, Attention, LongVQ, Mamba, Mamba2
from seqmix.models import TokenModel

MIXERS = {
    "Mamba": Mamba,
    "Mamba2": partial(Mamba2, d_state=4, headdim=4),
    "Attention": partial(Attention, n_heads=2, causal=True, rotary=True),
    "LongVQ": partial(LongVQ, causal=True, n_codes=4, window=4, d_qk=8),
    "EMA": EMA,
    "S4D": S4D,
}


def _model(name, **options):
    given = {"mixer": MIXERS[name], "d_model": 8, "n_layers": 2}
    model = TokenModel(11, 20, **{**given, **options}).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("options", [{"positions": True, "post_norm": True}, {"channel_mixer": None, "norm": "rms"}])
def test_steps_equal_the_parallel_form(name, options):
    model = _model(name, **options)
    tokens = torch.randint(11, (3, 17))
    state, stepped = model.init_state(3), []
    for token in tokens.unbind(1):
        scores, state = model.step(token, state)
        stepped.append(scores)
    torch.testing.assert_close(torch.stack(stepped, 1), model(tokens), rtol=1e-6, atol=1e-6)


def test_the_likeliest_tokens_are_those_of_the_parallel_form():
    model = _model("Mamba")
    drawn = list(sample(model, [1, 5], 12, 0.0, seed=0))
    tokens = torch.tensor([[1, 5, *drawn]])
    assert model(tokens)[0, 1:-1].argmax(-1).tolist() == drawn


def test_draws_follow_the_seed_and_the_temperature():
    model = _model("Mamba")
    first, again, other = (list(sample(model, [1], 9, 1.0, seed)) for seed in (0, 0, 1))
    assert first == again != other
    scores = model(torch.tensor([[1]]))[0, -1]
    counts = torch.zeros(11)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        counts[_draw(scores, 2.0, generator)] += 1
    assert (counts / 4000 - (scores / 2).softmax(-1)).abs().max() < 0.03


def test_the_state_does_not_grow():
    model = _model("Mamba")
    sizes = []
    state = model.init_state(1)
    for _ in range(20):
        _, state = model.step(torch.tensor([1]), state)
        sizes.append(sum(t.numel() for t in torch.utils._pytree.tree_leaves(state) if isinstance(t, torch.Tensor)))
    assert len(set(sizes)) == 1


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 20)
    model = ["--model", "CausalLM", "--model.model", "TokenModel", "--model.model.mixer", "Mamba"]
    size = ["--model.model.d_model", "8", "--model.model.n_layers", "1", "--trainer.max_epochs", "1"]
    data = ["--data", "TextFiles", "--data.train", "text.txt", "--data.max_len", "32", "--trainer.accelerator", "cpu"]
    assert run(["fit", *model, *size, *data]) == 0
    (ckpt,) = tmp_path.glob("runs/CausalLM-TextFiles/*/best.ckpt")
    capsys.readouterr()
    texts = []
    for _ in range(2):
        assert run(["generate", "--ckpt_path", str(ckpt), "--prompt", "to be", "--tokens", "9", "--seed", "3"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("to be")
    assert run(["generate", "--prompt", "to be"]) == 1
    assert "has no config.yaml beside it; pass --config, as to fit" in capsys.readouterr().err
    assert run(["generate", "--ckpt_path", str(ckpt), "--tokens", "0"]) == 1
    assert "tokens = 0 must be at least 1" in capsys.readouterr().err
