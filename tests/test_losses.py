"""Losses and distributions against scipy, masks and weights against the batch without what they hide."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, DataError
from seqmix.models import DLinear, MixerForecaster, SeasonalNaive
from seqmix.series import Series
from seqmix.tasks import Forecasting
from seqmix.tasks._losses import make_loss

CONTEXT, HORIZON, C = 24, 8, 2
LAWS = ("normal", "student_t", "negative_binomial")
LOSSES = ("mse", "mae", "huber", "quantile", *LAWS)
patches = partial(MixerForecaster, d_model=8, n_layers=1, patch_len=8, patch_stride=8, dropout=0.0, head_dropout=0.0)


def make(model=DLinear, **options):
    task = Forecasting(model, Series(C, CONTEXT, HORIZON), **options)
    task.log = lambda *a, **k: None
    return task


def make_batch(loss="mse", B=5):
    x, y = 2 * torch.randn(B, CONTEXT, C) + 3, 2 * torch.randn(B, HORIZON, C) + 3
    if loss == "negative_binomial":
        x, y = torch.poisson(x.abs()), torch.poisson(y.abs())
    return {"x": x, "y": y}


def scipy_law(loss, forecast):
    """The distribution that the parameters name, in another library."""
    p = forecast.detach().double().numpy()
    if loss == "normal":
        return stats.norm(p[..., 0], p[..., 1])
    if loss == "student_t":
        return stats.t(p[..., 2], p[..., 0], p[..., 1])
    mean, dispersion = p[..., 0], p[..., 1]
    return stats.nbinom(1 / dispersion, 1 / (1 + mean * dispersion))


@pytest.mark.parametrize("loss", LAWS)
def test_likelihoods_are_those_of_scipy(loss):
    law, outputs = make_loss(loss, None, None), 3 * torch.randn(4, 3, 2, 3, dtype=torch.float64)
    forecast = law.read(outputs[..., : law.n_outputs])
    y = torch.poisson(torch.full((4, 3, 2), 5.0, dtype=torch.float64))
    y[0, 0, 0] = 0
    theirs = scipy_law(loss, forecast)
    logs = (theirs.logpmf if loss == "negative_binomial" else theirs.logpdf)(y.numpy())
    np.testing.assert_allclose(law.score(forecast, y).numpy(), -logs, rtol=1e-9)
    np.testing.assert_allclose(law.point(forecast).numpy(), theirs.mean(), rtol=1e-12)


@pytest.mark.parametrize("loss", LAWS)
def test_gradients_of_likelihoods(loss):
    law = make_loss(loss, None, None)
    outputs = torch.randn(2, 3, 1, law.n_outputs, dtype=torch.float64, requires_grad=True)
    y = torch.poisson(torch.full((2, 3, 1), 4.0, dtype=torch.float64))
    scale = torch.tensor([[[0.3]], [[40.0]]], dtype=torch.float64)

    def nll(outputs):
        return law.score(law.rescale(law.read(outputs), torch.zeros_like(scale), scale), y)

    assert torch.autograd.gradcheck(nll, (outputs,))


def test_large_counts_keep_their_digits():
    law, y = make_loss("negative_binomial", None, None), torch.full((1, 1, 1), 2.0e6)
    forecast = torch.tensor([2.0e6, 1e-5]).view(1, 1, 1, 2)
    want = -stats.nbinom.logpmf(2_000_000, 1e5, 1 / 21)
    # parameters in float32 are right to 6e-8 of themselves, log-gammas of them in float32 to whole numbers
    assert law.score(forecast, y).item() == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("loss", LAWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 80.0, -80.0])
def test_extreme_outputs_stay_finite(loss, dtype, size):
    law = make_loss(loss, None, None)
    outputs = (size * torch.tensor([1.0, -1.0, 1.0])[: law.n_outputs]).view(1, 1, 1, -1).to(dtype).requires_grad_()
    forecast = law.read(outputs)
    assert forecast.dtype == torch.float32
    loss_ = law.score(forecast, torch.ones(1, 1, 1))
    loss_.sum().backward()
    assert loss_.isfinite().all() and outputs.grad.isfinite().all()
    assert law.quantiles(forecast.detach(), [0.01, 0.99]).isfinite().all()


@pytest.mark.parametrize("loss", ["normal", "student_t"])
def test_location_and_scale_follow_an_affine_model(loss):
    """A model that stretches its outputs by s and shifts them by m moves the location so, and shifts no scale."""
    law, z = make_loss(loss, None, None), torch.randn(2, 3, 1, 3)[..., : make_loss(loss, None, None).n_outputs]
    plain, shifted = law.read(z), law.read(z + 7)
    torch.testing.assert_close(shifted[..., 0], plain[..., 0] + 7)
    torch.testing.assert_close(shifted[..., 1:], plain[..., 1:])


@pytest.mark.parametrize("loss", ["mse", "quantile", *LAWS])
def test_window_normalization_is_undone(loss):
    """With a ten times larger and shifted window everything in the units of the data is so too."""
    task, batch = make(loss=loss).eval(), make_batch(loss)
    counts = loss == "negative_binomial"
    y, big = task(batch), task({"x": 10 * batch["x"] + (0 if counts else 3)})
    point, quantile = task.point(y), task.quantile_forecast(batch, [0.5])[..., 0] if loss != "mse" else y
    if counts:
        # v = 1 + mean: the window is not divided by exactly ten times as much
        mean = batch["x"].mean(1, keepdim=True)
        raw = task.loss.read(task.model(batch["x"] / (1 + mean)))
        torch.testing.assert_close(y[..., 0], raw[..., 0] * (1 + mean))
        torch.testing.assert_close(y[..., 1], raw[..., 1] / (1 + mean).sqrt())
        assert (quantile == quantile.round()).all()
        return
    # up to eps under the root
    torch.testing.assert_close(task.point(big), 10 * point + 3, rtol=1e-4, atol=1e-3)
    if loss in LAWS:
        torch.testing.assert_close(big[..., 1], 10 * y[..., 1], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(big[..., 2:], y[..., 2:], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(quantile, point)
    x = batch["x"]
    mean, std = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    raw = task.loss.read(task.model((x - mean) / std))
    raw = raw.sort(dim=-1).values if loss == "quantile" else raw
    torch.testing.assert_close(point, task.loss.point(raw) * std + mean)


@pytest.mark.parametrize("loss", LAWS)
@pytest.mark.parametrize("model", [DLinear, patches], ids=["DLinear", "MixerForecaster"])
def test_quantiles_are_exact_and_rise(loss, model):
    task, batch = make(model, loss=loss, normalize="window").eval(), make_batch(loss)
    levels = [0.9, 0.001, 0.5, 0.975]
    found = task.quantile_forecast(batch, levels)
    law = scipy_law(loss, task(batch))
    want = np.stack([law.ppf(q) for q in levels], -1)
    assert found.shape == (5, HORIZON, C, 4)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-4, atol=1e-4)
    assert (found[..., [1, 2, 0, 3]].diff(dim=-1) >= 0).all()


def test_trained_quantiles_are_joined_by_lines():
    task, batch = make(loss="quantile", quantiles=[0.1, 0.5, 0.7], normalize="none"), make_batch()
    sorted_ = task.model(batch["x"]).sort(dim=-1).values
    # in training mode too, where forward leaves them as they come
    found = task.quantile_forecast(batch, [0.7, 0.2, 0.1, 0.5])
    torch.testing.assert_close(found[..., [2, 3, 0]], sorted_)
    torch.testing.assert_close(found[..., 1], 0.75 * sorted_[..., 0] + 0.25 * sorted_[..., 1])
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("loss", "levels", "message"),
    [
        (
            "quantile",
            [0.05, 0.5],
            "quantiles = [0.05, 0.5] reach beyond those trained, [0.1, 0.5, 0.9]; train with quantiles that hold them, "
            "or use loss='student_t'",
        ),
        (
            "mse",
            [0.5],
            "a point forecast has no quantiles, got quantiles = [0.5]; train with loss='quantile', 'normal', "
            "'student_t' or 'negative_binomial', or put conformal intervals around it",
        ),
        ("normal", [0.0, 0.5], "quantiles are levels between 0 and 1, got [0.0, 0.5]; use for example [0.1, 0.9]"),
        ("normal", [], "quantiles are levels between 0 and 1, got []; use for example [0.1, 0.9]"),
    ],
)
def test_quantiles_that_there_are_not(loss, levels, message):
    with pytest.raises(ConfigError) as error:
        make(loss=loss).quantile_forecast(make_batch(), levels)
    assert str(error.value) == message


def gradients(task, batch):
    task.zero_grad()
    loss = task.training_step(batch, 0)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in task.parameters()]


@pytest.mark.parametrize("normalize", ["none", "window"])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_masked_does_not_matter(loss, normalize):
    """NaN planted where nothing was observed changes no bit; a step of no sample is as if the horizon had none."""
    task, batch = make(loss=loss, normalize=normalize), make_batch(loss)
    x_mask, y_mask = torch.rand(5, CONTEXT, C) > 0.3, torch.rand(5, HORIZON, C) > 0.3
    x_mask[1], y_mask[2] = False, False
    clean = {**batch, "x_mask": x_mask, "y_mask": y_mask}
    dirty = {k: v.clone() for k, v in clean.items()}
    dirty["x"][~x_mask] = float("nan")
    dirty["y"][~y_mask] = float("nan")
    (a, grads), (b, others) = gradients(task, clean), gradients(task, dirty)
    assert a.isfinite() and torch.equal(a, b)
    assert all(torch.equal(g, h) for g, h in zip(grads, others, strict=True))

    each = task.loss.score(task(clean), batch["y"])
    each = each.mean(-1) if each.ndim == 4 else each
    torch.testing.assert_close(a, each[y_mask].mean())
    task.eval()
    task.add_batch(dirty)
    error = (task.point(task(clean)) - batch["y"])[y_mask].double()
    want = [error.square().sum(), error.abs().sum(), y_mask.sum(), 4]
    torch.testing.assert_close(task.sums, torch.stack([torch.as_tensor(w).double() for w in want]))


def test_moments_are_over_what_was_observed():
    task, batch = make(normalize="window"), make_batch()
    mask = torch.rand(5, CONTEXT, C) > 0.4
    mask[0, :, 0] = False
    _, (mean, std) = task.norm(batch["x"], mask)
    for b in range(1, 5):
        for c in range(C):
            seen = batch["x"][b, :, c][mask[b, :, c]]
            assert mean[b, 0, c].item() == pytest.approx(seen.mean().item(), abs=1e-5)
            assert std[b, 0, c].item() == pytest.approx(seen.std(correction=0).item(), abs=1e-4)
    assert mean[0, 0, 0] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_zero_removes_a_sample(loss):
    task, batch = make(loss=loss), make_batch(loss)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    kept = {k: v[weight > 0] for k, v in batch.items()}
    (a, grads), (b, others) = gradients(task, {**batch, "weight": weight}), gradients(task, kept)
    torch.testing.assert_close(a, b)
    for g, h in zip(grads, others, strict=True):
        torch.testing.assert_close(g, h)
    task.add_batch({**batch, "weight": weight})
    with_zeros = task.sums.clone()
    task.sums.zero_()
    task.add_batch(kept)
    # sums of float32, in another order
    torch.testing.assert_close(with_zeros, task.sums, rtol=1e-6, atol=0)
    # nothing but zeros teaches nothing
    nothing, grads = gradients(task, {**batch, "weight": torch.zeros(5)})
    assert nothing == 0 and not any(g.any() for g in grads)


def test_a_weight_of_two_counts_twice():
    task, batch = make(), make_batch()
    y_mask = torch.rand(5, HORIZON, C) > 0.3
    twice = {k: torch.cat([v, v[:1]]) for k, v in {**batch, "y_mask": y_mask}.items()}
    weighted = {**batch, "y_mask": y_mask, "weight": torch.tensor([2.0, 1, 1, 1, 1])}
    torch.testing.assert_close(gradients(task, weighted), gradients(task, twice))


@pytest.mark.parametrize("normalize", ["none", "window"])
def test_a_module_as_loss(normalize):
    task, batch = make(loss_module=partial(nn.SmoothL1Loss, reduction="none"), normalize=normalize), make_batch()
    torch.testing.assert_close(task.training_step(batch, 0), F.smooth_l1_loss(task(batch), batch["y"]))
    assert "loss_module" not in task.hparams and task.predict_step(batch, 0).keys() == {"y", "yhat"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss_module": nn.SmoothL1Loss},
            "loss SmoothL1Loss gives shape () for forecasts of shape (2, 3, 1), a loss for each value is needed; "
            "build it with reduction='none'",
        ),
        (
            {"loss_module": nn.SmoothL1Loss, "quantiles": [0.5]},
            "quantiles = [0.5] go with loss = 'quantile', got a loss_module; drop one of them",
        ),
        (
            {"loss": "gamma"},
            "loss = 'gamma' is not known; use one of mse, mae, huber, quantile, normal, student_t, negative_binomial",
        ),
    ],
)
def test_losses_that_do_not_fit(options, message):
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("value", [-1.0, 0.5])
def test_counts_are_whole(value):
    task, batch = make(loss="negative_binomial"), make_batch("negative_binomial")
    task.on_train_batch_start(batch, 0)
    batch["y"][3, 2, 1] = value
    with pytest.raises(DataError) as error:
        task.on_train_batch_start(batch, 0)
    assert str(error.value) == (
        f"loss = 'negative_binomial' is for counts, got {value:g}; leave the data unscaled, or use loss='student_t'"
    )
    # what was not observed is not a count
    y_mask = torch.ones(5, HORIZON, C, dtype=torch.bool)
    y_mask[3, 2, 1] = False
    task.on_train_batch_start({**batch, "y_mask": y_mask}, 0)


@pytest.mark.parametrize("loss", LAWS)
def test_the_law_is_found_again(loss):
    """Fitted to draws of one law, the parameters are those of the law."""
    law = make_loss(loss, None, None)
    draws = {
        "normal": lambda: torch.randn(4000) * 2 + 1,
        "student_t": lambda: torch.distributions.StudentT(4.0).sample((4000,)) * 2 + 1,
        "negative_binomial": lambda: torch.distributions.NegativeBinomial(4.0, torch.tensor(0.6)).sample((4000,)),
    }
    want = {"normal": [1, 2], "student_t": [1, 2, 4], "negative_binomial": [6, 0.25]}[loss]
    y, outputs = draws[loss]().view(-1, 1, 1), torch.zeros(1, 1, 1, law.n_outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = law.score(law.read(outputs), y).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = law.read(outputs).flatten().tolist()
    # degrees of freedom are the hardest to tell: 4,000 draws give them to about 0.4
    assert found == pytest.approx(want, rel=0.2)
    assert found[:1] == pytest.approx(want[:1], rel=0.1)


def test_point_forecasts_of_a_baseline_have_all_parameters():
    """A model without scale outputs gives K equal numbers: a scale of softplus(0) of the window's unit."""
    task = make(partial(SeasonalNaive, season=2), loss="normal", normalize="window").eval()
    batch = make_batch()
    y = task(batch)
    torch.testing.assert_close(y[..., 0], batch["x"][:, -2:].repeat(1, 4, 1), rtol=1e-4, atol=1e-4)
    std = (batch["x"].var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y[..., 1], ((torch.tensor(2.0).log() + 1e-3) * std).expand_as(y[..., 1]))
