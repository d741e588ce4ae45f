"""Generation: steps equal the parallel form, drawn as asked, and say what is missing."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from seqmix.cli import run
from seqmix.commands.generate import draw, sample
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
    drawn = [int(token) for token in sample(model, [[1, 5]], 12, temperature=0)]
    tokens = torch.tensor([[1, 5, *drawn]])
    assert model(tokens)[0, 1:-1].argmax(-1).tolist() == drawn


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("chunk", [2, 1024])
def test_a_batch_of_prompts_is_continued_as_each_alone(name, chunk, monkeypatch):
    """However long the others are, and in whatever chunks they are read."""
    monkeypatch.setattr("seqmix.commands.generate._CHUNK", chunk)
    model, begins = _model(name), [[1, 5, 3, 2, 8], [7], [4, 4, 9]]
    together = torch.stack(list(sample(model, begins, 5, temperature=0)), 1)
    for begin, drawn in zip(begins, together.tolist(), strict=True):
        assert [int(token) for token in sample(model, [begin], 5, temperature=0)] == drawn


def test_draws_follow_the_seed():
    model = _model("Mamba")
    first, again, other = (torch.cat(list(sample(model, [[1]], 9, seed=seed))).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, 11), ({"top_k": 3}, 3), ({"top_k": 99}, 11), ({"top_p": 0.6}, None), ({"top_p": 1.0}, 11)],
)
def test_draws_follow_the_chances(options, kept):
    scores = torch.randn(1, 11)
    falling, order = (scores / 2).softmax(-1)[0].sort(descending=True)
    # up to and with the token at which the sum crosses the threshold
    kept = kept or int((falling.cumsum(0) < options["top_p"]).sum()) + 1
    want = torch.zeros(11).scatter(0, order[:kept], falling[:kept] / falling[:kept].sum())
    given = {"temperature": 2.0, "top_k": None, "top_p": None, **options}
    drawn = draw(scores.expand(8000, -1), torch.Generator().manual_seed(0), **given)
    counts = torch.bincount(drawn, minlength=11) / 8000
    assert (counts - want).abs().max() < 0.03 and not counts[want == 0].any()


def test_the_state_does_not_grow():
    model = _model("Mamba")
    sizes = []
    state = model.init_state(1)
    for _ in range(20):
        _, state = model.step(torch.tensor([1]), state)
        sizes.append(sum(t.numel() for t in torch.utils._pytree.tree_leaves(state) if isinstance(t, torch.Tensor)))
    assert len(set(sizes)) == 1


def _fit(folder, mixer="Mamba"):
    (folder / "text.txt").write_text("to be or not to be\n" * 20)
    (folder / "lm.yaml").write_text(
        f"model: {{class_path: CausalLM, init_args: {{model: {{class_path: TokenModel, init_args: {{mixer: {mixer}, "
        "d_model: 8, n_layers: 1}}}}\n"
        "data: {class_path: TextFiles, init_args: {train: text.txt, max_len: 32}}\n"
        "trainer: {max_epochs: 1, accelerator: cpu}\n"
    )
    assert run(["fit", "--config", "lm.yaml", "--model.model.mixer", mixer]) == 0
    (ckpt,) = folder.glob("runs/lm/*/best.ckpt")
    return str(ckpt)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ckpt = _fit(tmp_path)
    capsys.readouterr()
    texts = []
    few = ["--tokens", "9", "--seed", "3", "--top_k", "5", "--top_p", "0.9"]
    for source in (["--ckpt_path", ckpt], ["--config", "lm.yaml", "--ckpt_path", "best"], ["--config", "lm.yaml"]):
        assert run(["generate", *source, "--prompt", "to be", *few]) == 0
        texts.append(capsys.readouterr().out)
    assert len({*texts}) == 1 and texts[0].startswith("to be")
    (tmp_path / "prompts.txt").write_text("to\nor not\n")
    assert run(["generate", "--ckpt_path", ckpt, "--prompts", "prompts.txt", "--temperature", "0"]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.startswith("to") and second.startswith("or not")
    for options, message in [
        (["--prompt", "to be"], "has no config.yaml beside it; pass --config, as to fit"),
        (["--ckpt_path", ckpt, "--tokens", "0"], "tokens = 0 must be at least 1"),
        (["--ckpt_path", ckpt, "--top_p", "0"], "top_k = None must be at least 1, top_p = 0.0 above 0 and at most 1"),
        (["--ckpt_path", ckpt, "--prompts", "none.txt"], "prompts = 'none.txt' cannot be read"),
    ]:
        assert run(["generate", *options]) == 1
        assert message in capsys.readouterr().err


def test_only_the_model_and_the_tokens_of_the_config_beside_a_checkpoint_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Path(_fit(tmp_path)).parent / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    made = []
    monkeypatch.setattr("lightning.pytorch.callbacks.Timer.__init__", lambda *a, **k: made.append(a))
    settings["trainer"]["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.Timer"}]
    config.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert run(["generate", "--ckpt_path", str(config.parent / "best.ckpt"), "--tokens", "3"]) == 0
    assert made == []


SHIFT = """
import torch
from seqmix.mixers import Mixer

class Shift(Mixer):
    causal = True

    def __init__(self, d_model: int, max_len: int | None = None):
        super().__init__()

    def forward(self, x, mask=None):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
"""


def test_a_mixer_without_step_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_shift.py").write_text(SHIFT)
    _fit(tmp_path, "own_shift.Shift")
    capsys.readouterr()
    assert run(["generate", "--config", "lm.yaml", "--trust", "own_shift"]) == 1
    assert "Shift has no step(), so that a text cannot be continued; define init_state()" in capsys.readouterr().err
