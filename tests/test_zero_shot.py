"""ZeroShot: periods, facts at origins, the causal patch model and its training, and forecasts of any horizon."""

import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.cli import run
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import EMA, Hydra
from seqmix.models import QuantilePatches, ZeroShot
from seqmix.models.origins import origins
from seqmix.models.periods import find_periods
from seqmix.models.quantile_patches import LEVELS
from seqmix.models.zero_shot import _mixed
from seqmix.series import Series
from seqmix.tasks import Pretraining

MEDIAN = LEVELS.index(0.5)
SMALL = {"weights": None, "d_model": 16, "n_layers": 1, "patch_len": 4, "block": 8}


def small(horizon: int = 8, season: int = 1, outputs: int = 13, context: int = 40) -> ZeroShot:
    torch.manual_seed(0)
    return ZeroShot(Series(1, context, horizon, outputs, season=season), **SMALL).eval()


def cycle(period: float, length: int, noise: float = 0.0, n: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    t = np.arange(length) + rng.uniform(0, 100, (n, 1))
    return torch.tensor(np.sin(2 * np.pi * t / period) + noise * rng.standard_normal((n, length))).float()


@pytest.fixture(autouse=True)
def _handler():
    handler = signal.getsignal(signal.SIGINT)
    yield
    # Lightning leaves Ctrl-C ignored once it has caught one
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("period", [7, 24, 60])
def test_periods_are_found_under_noise_trend_and_gaps(period):
    x = cycle(period, 400, noise=0.5, n=20) + torch.linspace(0, 8, 400)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.1
    found = find_periods(x.masked_fill(~mask, 0), mask, torch.zeros(20, 2).long())
    assert (found[:, 0] - period).abs().max() <= max(1, period // 20)
    assert not found[:, 1].any()


def test_noise_and_trends_have_no_period():
    rng = np.random.default_rng(0)
    x = torch.tensor(np.concatenate([rng.standard_normal((1000, 200)), np.linspace(0, 5, 200)[None]])).float()
    found = find_periods(x, torch.ones_like(x).bool(), torch.zeros(1001, 2).long())
    # by the risk of the test, one in a thousand
    assert (found > 0).sum() <= 5
    assert not found[-1].any()


def test_a_known_period_needs_two_cycles():
    mask = torch.arange(100) >= torch.tensor([[0], [50], [51], [90]])
    x = torch.zeros(4, 100)
    found = find_periods(x, mask, torch.tensor([[10, 25]]).expand(4, 2))
    assert found.tolist() == [[10, 25], [10, 25], [10, 0], [0, 0]]
    # a longer cycle goes on where the shorter one is not known
    assert find_periods(x, mask, torch.tensor([[0, 25]]).expand(4, 2))[:2].tolist() == [[25, 0], [25, 0]]


def test_a_plain_cycle_is_not_hidden_by_the_season_of_the_frequency():
    mask, known = torch.ones(1, 400).bool(), torch.tensor([[24, 168]])
    assert find_periods(cycle(7, 400), mask, known).tolist() == [[7, 24]]
    # noise hides it, and a season that is there stays
    assert find_periods(cycle(7, 400, noise=1.0), mask, known).tolist() == [[24, 168]]
    assert find_periods(cycle(24, 400, noise=0.3), mask, known).tolist() == [[24, 168]]
    both = cycle(24, 400) + 0.5 * cycle(8, 400)
    assert find_periods(both, mask, known).tolist() == [[24, 168]]


def test_facts_at_origins_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 60)).cumsum(1) + 100
    mask = rng.random((4, 60)) > 0.15
    mask[0, :20] = mask[1, :57] = False
    mask[2] = True
    periods, ends, horizon = [(6, 0), (6, 14), (7, 21), (0, 0)], [8, 30, 60], 10
    given = torch.tensor(x * mask), torch.tensor(mask), torch.tensor(periods), torch.tensor(ends)
    found = origins(*given, horizon)
    for i in range(4):
        for j, end in enumerate(ends):
            rows = np.flatnonzero(mask[i])
            first = rows[0]
            if end <= first:
                assert found.seen[i, j] == 0 and found.age[i, j] == 0
                continue
            age, seen = end - first, x[i, :end][mask[i, :end]]
            # a missing value is the one before it
            filled = np.array([x[i, rows[rows <= t][-1]] for t in range(first, end)])
            p, q = (k if k and age >= 2 * k else 1 for k in periods[i])
            q = q if q > 1 else p
            lag = [abs(x[i, t] - x[i, t - p]) for t in range(p, end) if mask[i, t] and mask[i, t - p]]
            naive = [filled[len(filled) - p + h % p] for h in range(horizon)]
            assert found.seen[i, j] == len(seen) and found.age[i, j] == age
            assert found.periods[i, j].tolist() == [p, q]
            np.testing.assert_allclose(found.last[i, j], filled[-1])
            np.testing.assert_allclose(found.mean[i, j], seen.mean())
            np.testing.assert_allclose(found.deviation[i, j], seen.std(), atol=1e-6)
            np.testing.assert_allclose(found.naive[i, j], naive)
            if lag:
                np.testing.assert_allclose(found.unit[i, j], max(np.mean(lag), 0.01 * seen.std(), 1e-6))
            w = max(p, min(8, max(1, age // 2)))
            slope = (filled[-w:].mean() - filled[-2 * w : -w].mean()) / w if age >= 2 * w else 0
            np.testing.assert_allclose(found.drift[i, j], slope, atol=1e-12)
            second = [filled[len(filled) - q + h % q] for h in range(horizon)]
            phases = [[len(filled) - c * p + h % p for c in (1, 2, 3)] for h in range(horizon)]
            mean = [np.mean([filled[k] for k in rows_ if k >= 0]) for rows_ in phases]
            back = [p * (1 + h // p) for h in range(horizon)]
            np.testing.assert_allclose(found.others[0, i, j], mean)
            np.testing.assert_allclose(found.others[1, i, j], second)
            np.testing.assert_allclose(found.others[3, i, j], np.array(naive) + slope * np.array(back))
            profile = np.zeros(len(filled))
            for t in range(p - 1, len(filled)):
                same = [filled[k] - filled[k - p + 1 : k + 1].mean() for k in range(t, p - 2, -p)]
                profile[t] = np.mean(same) if p > 1 else 0
            shape = np.array([profile[len(filled) - p + h % p] for h in range(horizon)])
            for k, w in ((4, max(p, min(12, age))), (5, max(-(-p // 4), min(5, age)))):
                level = (filled - profile)[-w:].mean()
                np.testing.assert_allclose(found.others[k, i, j], level + shape, err_msg=str((i, j, k)))


def test_an_origin_sees_nothing_after_it():
    torch.manual_seed(0)
    model = small().patches
    x, mask = torch.randn(3, 40), torch.rand(3, 40) > 0.1
    periods = torch.tensor([[6, 0], [0, 0], [5, 12]])
    before = model(x * mask, mask, periods)
    changed = torch.cat([x[:, :20], 50 * torch.randn(3, 20)], 1)
    after = model(changed * mask, mask, periods)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[:, :5], b[:, :5])
        assert not torch.allclose(a[:, 5:], b[:, 5:])


def test_parts_of_the_origins_are_those_of_all():
    model, x = small().patches, torch.randn(2, 40)
    mask, periods = torch.ones_like(x).bool(), torch.zeros(2, 2).long()
    for whole, part in zip(model(x, mask, periods), model(x, mask, periods, slice(1, None, 3)), strict=True):
        torch.testing.assert_close(whole[:, 1::3], part)


def test_the_loss_is_the_weighted_pinball_loss():
    model = small().patches.double()
    x = torch.randn(2, 48, dtype=torch.float64).cumsum(1)
    mask = torch.rand(2, 48, generator=torch.Generator().manual_seed(0)) > 0.2
    mask[1, :30] = False
    periods = torch.tensor([[0, 0], [0, 0]])
    with torch.no_grad():
        found, naive, unit = model(x[:, :40] * mask[:, :40], mask[:, :40], periods)
    total = weights = 0.0
    for i in range(2):
        valid = [j for j in range(10) if mask[i, : 4 * j + 4].sum() >= 3]
        for j in valid:
            for h in range(8):
                if mask[i, 4 * j + 4 + h]:
                    e = torch.asinh((x[i, 4 * j + 4 + h] - naive[i, j, h]) / unit[i, j]) - found[i, j, h]
                    pinball = sum(max(q * d, (q - 1) * d) for q, d in zip(LEVELS, e.tolist(), strict=True)) / 13
                    weight = len(valid) ** -0.5 / (1 + h / 32)
                    total, weights = total + weight * pinball, weights + weight
    assert model.loss(x * mask, mask, periods).item() == pytest.approx(float(total / weights))


def test_forecasts_move_and_stretch_with_the_series():
    model, x = small(horizon=20, season=6), torch.randn(2, 40, 1).cumsum(1)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model(-3 * x + 7), -3 * y.flip(-1) + 7, rtol=1e-4, atol=1e-4)
    assert y.shape == (2, 20, 1, 13) and (y.diff(dim=-1) >= 0).all()


def test_missing_values_are_not_looked_at():
    model, x = small(season=6), torch.randn(2, 40, 1)
    mask = torch.rand(2, 40, 1) > 0.3
    assert torch.equal(model(x, mask=mask), model(torch.where(mask, x, 1e6), mask=mask))
    assert not torch.equal(model(x, mask=mask), model(x))


def test_widths_are_those_of_the_length_of_the_history():
    model = small(outputs=13)
    x, mask = torch.randn(2, 40, 1), torch.ones(2, 40, 1).bool()
    mask[1, :30] = False
    before = model(x, mask=mask)
    # 10 values are fewer than 16, 40 are at least 32
    model.widths[:] = torch.tensor([2.0, 9.0, 0.5, 9.0, 9.0])
    after = model(x, mask=mask)
    assert torch.allclose(after[..., MEDIAN], before[..., MEDIAN], atol=1e-5)
    wide = [(y[..., 10] - y[..., 2]).mean((1, 2)) for y in (before, after)]
    ratio = wide[1] / wide[0]
    assert 0.3 < ratio[0] < 0.6 and 1.8 < ratio[1] < 4


def test_quarterly_and_yearly_intervals_of_the_packaged_weights_are_wider():
    widths = [ZeroShot(Series(1, 512, 8, 13, season=season)).widths for season in (4, 1, 12)]
    torch.testing.assert_close(widths[0], 1.3 * widths[2])
    torch.testing.assert_close(widths[1], 1.1 * widths[2])


def test_a_perfect_cycle_goes_on():
    x = cycle(8, 40)[..., None]
    y = small(horizon=24, season=8, outputs=1)(x)
    assert torch.allclose(y[0, :, 0], cycle(8, 64)[0, 40:], atol=0.03)


def test_intervals_never_narrow_at_the_border_of_a_block():
    """The packaged weights over ten blocks; 80 % intervals, season by season."""
    rng, t = np.random.default_rng(0), np.arange(512)
    cycles = np.sin(2 * np.pi * t / 24)
    kinds = [rng.standard_normal(512).cumsum(), rng.standard_normal(512), cycles + 0.3 * rng.standard_normal(512)]
    x = torch.tensor(np.stack([cycles, *kinds])).float()[..., None]
    with torch.no_grad():
        y = ZeroShot(Series(1, 512, 640, 13, season=24)).eval()(x)[:, :, 0]
    width = (y[..., 10] - y[..., 2]).unflatten(1, (10, 64))
    assert (width[:, 1:, :24].mean(-1) > 0.999 * width[:, :-1, -24:].mean(-1)).all()
    # a perfect cycle keeps its amplitude
    last = y[0, -64:, MEDIAN]
    assert (last.max() - last.min()) / 2 > 0.95


def test_the_median_is_the_point_forecast():
    x = torch.randn(1, 40, 1)
    assert torch.equal(small(outputs=1)(x), small()(x)[..., MEDIAN])


def test_mixed_quantiles_are_those_of_the_mixture():
    rng = np.random.default_rng(0)
    centers = np.array([-2.0, 0.0, 0.5, 1.0])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS)).numpy()
    found = _mixed(torch.tensor((centers[:, None] + normal).reshape(1, 1, -1)), 4)[0, 0].numpy()
    sample = rng.choice(centers, 200_000) + rng.standard_normal(200_000)
    # thirteen values stand for each path; the tails have the fewest
    np.testing.assert_allclose(found[1:-1], np.quantile(sample, LEVELS[1:-1]), atol=0.12)


def test_options_that_do_not_fit(tmp_path):
    series = Series(1, 40, 8)
    with pytest.raises(ConfigError, match="ZeroShot forecasts 13 quantiles, got n_outputs = 3; use loss='quantile'"):
        ZeroShot(Series(1, 40, 8, 3), **SMALL)
    with pytest.raises(ConfigError, match="no weights 'large'; use 'zeroshot'"):
        ZeroShot(series, weights="large")
    with pytest.raises(DataError, match=r"does not hold weights of this model .*; check d_model and n_layers"):
        ZeroShot(series, d_model=32)
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"123")
    with pytest.raises(DataError, match=r"cut\.safetensors does not hold weights"):
        ZeroShot(series, weights=str(path))
    with pytest.raises(ConfigError, match="Hydra sees later positions"):
        ZeroShot(series, **{**SMALL, "mixer": partial(Hydra, headdim=8)})
    with pytest.raises(ConfigError, match=r"series of 40 \+ 9 steps do not fit patches of 4 and blocks of 8"):
        Pretraining(partial(ZeroShot, **SMALL), Series(1, 40, 9))


def test_training_learns_a_season_that_is_announced():
    """A few steps on noisy cycles: the seasonal mean is better than the last season."""
    torch.manual_seed(0)
    model = QuantilePatches(mixer=partial(EMA, d_state=4), d_model=16, n_layers=1, expand=2, patch_len=4, horizon=8)
    mask, periods = torch.ones(32, 48).bool(), torch.tensor([[8, 0]]).expand(32, 2)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for step in range(60):
        t = torch.arange(48) + 8 * torch.rand(32, 1)
        x = torch.sin(2 * torch.pi * t / 8) + 0.3 * torch.randn(32, 48)
        loss = model.loss(x, mask, periods, slice(step % 3, None, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:5])


CONFIG = """
model:
  class_path: Pretraining
  init_args:
    model:
      class_path: ZeroShot
      init_args: {weights: null, d_model: 16, n_layers: 1, patch_len: 8, block: 16}
    optim: {class_path: AdamW, init_args: {lr: 0.01}}
data:
  class_path: SyntheticSeries
  init_args: {context: 64, horizon: 16, batch_size: 16, steps_per_epoch: 3, n_val: 16}
trainer:
  max_epochs: 2
  accelerator: cpu
  callbacks:
    - class_path: lightning.pytorch.callbacks.EMAWeightAveraging
      init_args: {decay: 0.5}
"""


def test_a_resumed_training_is_the_training(tmp_path, monkeypatch):
    """Interrupted between two validations, with weights that are averaged: bit for bit."""
    monkeypatch.chdir(tmp_path)
    Path("pre.yaml").write_text(CONFIG)
    assert run(["fit", "--config", "pre.yaml", "--name", "whole"]) == 0
    loss_of, done = Pretraining.loss_of, []

    def stopped(self, batch):
        done.append(batch)
        if len(done) == 5:
            signal.raise_signal(signal.SIGINT)
        return loss_of(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "loss_of", stopped)
        assert run(["fit", "--config", "pre.yaml", "--name", "parts"]) == 130
    assert run(["fit", "--config", "pre.yaml", "--name", "parts", "--ckpt_path", "last"]) == 0
    whole, parts = (_last(tmp_path / "runs" / name) for name in ("whole", "parts"))
    for key in ("state_dict", "current_model_state"):
        for name, x in whole[key].items():
            assert torch.equal(parts[key][name], x), name
    # the average is what is tested and shipped
    assert any(not torch.equal(whole["state_dict"][k], x) for k, x in whole["current_model_state"].items())


def _last(folder):
    (path,) = folder.glob("*/last.ckpt")
    return torch.load(path, weights_only=True)
