"""GaussianImputer against the formula, with gaps in training, in parts of windows, and what it chooses."""

from functools import partial

import numpy as np
import pytest
import torch
from test_task_contract import quiet_trainer
from test_task_imputation import gaps_csv

from seqmix.errors import ConfigError
from seqmix.models import GaussianImputer, LinearInterpolation, class_of, imputer_factory, list_imputers, list_models
from seqmix.models.gaussian import _LEVEL
from seqmix.series import Series
from seqmix.tasks import Imputation


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def _batches(n=400, L=12, rate=0.3, gaps=0.0, seed=0):
    """Two channels of a random walk and their sum, with noise, as a closed form gets them."""
    rng = torch.Generator().manual_seed(seed)
    walk = torch.randn(n, L, 2, generator=rng).cumsum(1)
    y = 0.5 * torch.cat([walk, walk.sum(2, keepdim=True)], 2) + 0.1 * torch.randn(n, L, 3, generator=rng)
    y_mask = torch.rand(y.shape, generator=rng) >= gaps
    mask = y_mask & (torch.rand(y.shape, generator=rng) >= rate)
    batch = {"x": y.masked_fill(~mask, 0), "x_mask": mask, "y": y.masked_fill(~y_mask, 0), "y_mask": y_mask}
    return [{**batch, "weight": torch.ones(n, 3)}], y


def _in_eights(batch):
    """Batches of eight windows, all of which are used to choose."""
    return [{name: values[i : i + 8] for name, values in batch.items()} for i in range(0, len(batch["x"]), 8)]


def test_the_conditional_mean_by_the_formula():
    train, y = _batches()
    model = GaussianImputer(Series(3, 12, 12), shrink=0.01)
    model.fit_closed_form(train, _batches(100, seed=1)[0])
    (batch,), _ = _batches(5, seed=2)
    assert (model.share > 0.9).all()
    model.share.data.fill_(1.0)
    found = model(batch["x"], mask=batch["x_mask"])
    rows = y.clamp(-6, 6).flatten(1).double().numpy()
    mean, cov = rows.mean(0), np.cov(rows.T, bias=True)
    variance = np.tile(cov.diagonal().reshape(12, 3).mean(0), 12)
    same = np.arange(36)[:, None] % 3 == np.arange(36) % 3
    cov = cov + same * _LEVEL * variance + np.diag(0.01 * variance)
    for x, mask, got in zip(batch["x"].flatten(1), batch["x_mask"].flatten(1), found.flatten(1), strict=True):
        o, m = mask.numpy(), ~mask.numpy()
        want = mean[m] + cov[np.ix_(m, o)] @ np.linalg.solve(cov[np.ix_(o, o)], x.numpy()[o] - mean[o])
        np.testing.assert_allclose(got.numpy()[m], want, atol=1e-5)
        # observed values stay bit for bit
        assert torch.equal(got[mask], x[mask])


# with gaps fewer values are known in a window, and fewer pairs in training
@pytest.mark.parametrize(("options", "gaps", "part"), [({}, 0.0, 0.6), ({"span": 5}, 0.0, 0.6), ({}, 0.2, 0.8)])
def test_it_is_better_than_lines_where_channels_depend(options, gaps, part):
    series = Series(3, 12, 12)
    model = GaussianImputer(series, **options)
    held, truth = _batches(200, gaps=gaps, seed=1)
    wanted = held[0]["y_mask"] & ~held[0]["x_mask"]

    def error(filler):
        return float((filler(held[0]["x"], mask=held[0]["x_mask"]) - truth)[wanted].square().mean())

    lines = error(LinearInterpolation(series))
    assert error(model) == pytest.approx(lines, rel=1e-6)
    model.fit_closed_form(_batches(gaps=gaps)[0], _batches(100, gaps=gaps, seed=3)[0])
    assert error(model) < part * lines
    # windows without a value, and those with all of them
    none = model(torch.zeros(1, 12, 3), mask=torch.zeros(1, 12, 3, dtype=torch.bool))
    assert none.isfinite().all() and torch.equal(model(truth, mask=torch.ones_like(truth).bool()), truth)


def test_a_noisy_channel_does_not_disturb_a_smooth_one():
    """Few windows show covariances that are not there, and the errors of noise are large whatever is done."""
    rng = torch.Generator().manual_seed(0)
    season = torch.sin(torch.arange(148) * 2 * torch.pi / 24)
    season = season + 0.05 * torch.randn(148, generator=rng)
    errors = []
    for noise in (torch.zeros(148, 0), torch.randn(148, 2, generator=rng)):
        y = torch.cat([season[:, None], noise], 1).unfold(0, 48, 1).transpose(1, 2)  # (101, 48, C)
        mask = torch.rand(y.shape, generator=rng) >= 0.3
        parts = [slice(0, 60), slice(60, 80)]
        full = torch.ones_like(mask)
        batches = [
            [{"x": y[p] * mask[p], "x_mask": mask[p], "y": y[p], "y_mask": full[p], "weight": full[p, 0].float()}]
            for p in parts
        ]
        model = GaussianImputer(Series(y.shape[2], 48, 48))
        model.fit_closed_form(*batches)
        hidden = full[-1:].clone()
        hidden[:, 16:30, 0] = False
        found = model(y[-1:] * hidden, mask=hidden)
        errors.append(float((found - y[-1:])[0, 16:30, 0].square().mean()))
    assert max(errors) < 0.01


@pytest.mark.parametrize("hidden", [True, False])
def test_a_spike_in_the_validation_windows_does_not_decide(hidden):
    train, (val,) = _batches()[0], _batches(80, seed=3)[0]
    plain, spiked = GaussianImputer(Series(3, 12, 12)), GaussianImputer(Series(3, 12, 12))
    plain.fit_closed_form(train, _in_eights(val))
    values = {name: val[name].clone() for name in ("x", "y")}
    # a few of the hidden cells, or of those that the estimates are made from
    at = (val["x_mask"] != hidden).nonzero()[:: 250 if hidden else 1200]
    for each in values.values() if not hidden else (values["y"],):
        each[tuple(at.T)] += 100 * (-1) ** torch.arange(len(at))
    spiked.fit_closed_form(train, _in_eights({**val, **values}))
    assert len(at) >= 2 and (plain.share > 0.9).all()
    torch.testing.assert_close(spiked.share, plain.share, atol=0.1, rtol=0)
    wanted = val["y_mask"] & ~val["x_mask"]
    errors = [(m(val["x"], mask=val["x_mask"]) - val["y"])[wanted].square().mean() for m in (spiked, plain)]
    assert errors[0] < 1.1 * errors[1]


def test_levels_of_new_windows_are_others():
    train, _ = _batches()
    model = GaussianImputer(Series(3, 12, 12))
    model.fit_closed_form(train, ())
    (batch,), truth = _batches(50, seed=2)
    mask = batch["x_mask"]
    errors = [
        (model((truth + by).masked_fill(~mask, 0), mask=mask) - truth - by)[~mask].square().mean()
        for by in (0.0, 100.0)
    ]
    assert errors[1] < 1.5 * errors[0]


def test_it_is_found_by_name():
    assert "GaussianImputer" in list_imputers() and not {*list_imputers()} & {*list_models()}
    assert class_of(imputer_factory("GaussianImputer", {"span": 8})) is GaussianImputer
    with pytest.raises(ConfigError, match=r"no imputer, model, encoder or mixer 'Gaussianimputer'; did you mean"):
        imputer_factory("Gaussianimputer")


def test_in_the_task(tmp_path):
    data, _ = gaps_csv(tmp_path)
    task = Imputation(partial(GaussianImputer, span=8), data.series, normalize="none")
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, data)
    assert not trainer.global_step and task.label == "GaussianImputer (span 8)"
    (found,) = trainer.test(task, data, verbose=False)
    lines = task.baselines(data, [LinearInterpolation], 0)[0]
    assert found["test_mse"] < lines.metrics["mse"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 13}, "span = 13 is longer than the window of 12 steps; leave it out"),
        ({"span": 1}, "span = 1 is below 2; use span=2 or more"),
        ({"shrink": 0.0}, "shrink must be above 0, got 0.0; use for example 0.01, or leave it out"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        GaussianImputer(Series(3, 12, 12), **options)
    assert str(error.value) == message
