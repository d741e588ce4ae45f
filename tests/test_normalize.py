"""Normalization of windows: what the model sees, what is put back, with masks and with every kind."""

from functools import partial

import pytest
import torch
from torch import nn

from seqmix.errors import ConfigError
from seqmix.models import TSM2, DLinear, FFNetTS, ForecastModel, MixerForecaster
from seqmix.series import Series
from seqmix.tasks import Forecasting

SERIES = Series(3, 20, 5, season=4)
KINDS = ["window", "last", "season"]
SMALL = {"d_model": 8, "n_layers": 1, "patch_len": 4, "patch_stride": 2, "dropout": 0.0, "head_dropout": 0.0}
MODELS = {
    "TSM2": partial(TSM2, **SMALL),
    "MixerForecaster": partial(MixerForecaster, **SMALL),
    "FFNetTS": partial(FFNetTS, dims=(4,), kernel_size=3, small_kernel=3, dropout=0.0),
}


class Zero(ForecastModel):
    """A forecast of nothing, ``(B, horizon, C)`` or with all K outputs alike."""

    def forward(self, x, *, future=None, static=None, past=None):
        y = 0 * x[:, :1].expand(-1, self.series.horizon, -1)
        return y if self.series.n_outputs == 1 else y.unsqueeze(-1).expand(*y.shape, self.series.n_outputs)


def make(model=Zero, **options):
    task = Forecasting(model, SERIES, **options).double()
    if task.norm.weight is not None:
        nn.init.normal_(task.norm.weight, 1, 0.1)
        nn.init.normal_(task.norm.bias)
    return task


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_model_sees_is_free_of_level_and_scale(kind, affine):
    norm, x = make(normalize=kind, normalize_affine=affine).norm, 5 * torch.randn(2, 20, 3, dtype=torch.double) + 7
    z, (level, scale) = norm(x)
    deviation = (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(scale, deviation)
    removed = x[:, -1:] if kind == "last" else x.mean(1, keepdim=True)
    want = (x - removed) / deviation
    torch.testing.assert_close(z, want * norm.weight + norm.bias if affine else want)
    back = torch.cat([x[:, -4:]] * 2, 1)[:, :5] if kind == "season" else removed
    torch.testing.assert_close(level, back)
    # outputs at the learned shift are at the level
    torch.testing.assert_close(norm.undo_affine(z)[..., 0], want[..., 0])
    quantiles = norm.undo_affine(torch.stack([z, z + 1], -1))
    torch.testing.assert_close(quantiles[..., 1], norm.undo_affine(z + 1))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("loss", ["mse", "quantile", "normal"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_forecasts_follow_shift_and_scale_of_each_channel(name, kind, loss, affine):
    task = make(MODELS[name], normalize=kind, normalize_affine=affine, loss=loss).eval()
    x, a, b = torch.randn(2, 20, 3), torch.tensor([0.5, 3.0, 10.0]), torch.tensor([-4.0, 0.0, 7.0])
    x, a, b = x.double(), a.double(), b.double()
    y, moved = (task.point(task({"x": x})) for x in (x, a * x + b))
    # exact only up to eps under the root
    torch.testing.assert_close((moved - b) / a, y, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_missing_value_is_at_the_level(kind):
    task, x = make(normalize=kind), torch.randn(2, 20, 3, dtype=torch.double)
    mask = torch.rand(2, 20, 3) > 0.3
    mask[0, :, 0], mask[1, -3:, 1] = False, False
    dirty = x.masked_fill(~mask, float("nan"))
    z, _ = task.norm(dirty, mask)
    assert not z[~mask].any() and z.isfinite().all()
    y = task({"x": dirty, "x_mask": mask})
    assert y.isfinite().all() and torch.equal(y, task({"x": x, "x_mask": mask}))
    if kind == "last":
        assert torch.equal(y[1, :, 1], x[1, mask[1, :, 1], 1][-1].expand(5)) and not y[0, :, 0].any()
    if kind == "window":
        torch.testing.assert_close(y[1, 0, 1], x[1, mask[1, :, 1], 1].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_constant_windows_a_zero_scale_and_gradients(kind):
    norm = make(normalize=kind, normalize_affine=True).norm
    nn.init.zeros_(norm.weight)
    z, _ = norm(torch.full((1, 20, 3), 4.0, dtype=torch.double))
    assert z.isfinite().all() and norm.undo_affine(z + 1).isfinite().all()
    # statistics are constants for the gradient
    norm, x = make(normalize="window").norm, torch.randn(1, 20, 3, dtype=torch.double, requires_grad=True)
    z, (_, scale) = norm(x)
    z[:, 0].sum().backward()
    torch.testing.assert_close(x.grad[:, :1], 1 / scale)
    assert not x.grad[:, 1:].any()


class Masked(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, x, mask):
        return self.task({"x": x, "x_mask": mask})


@pytest.mark.parametrize("kind", KINDS)
def test_exported_with_a_mask_and_a_free_batch_size(kind):
    graph, batch = Masked(make(DLinear, normalize=kind).float().eval()), torch.export.Dim("batch")
    x, mask = torch.randn(7, 20, 3), torch.rand(7, 20, 3) > 0.2
    with torch.no_grad():
        program = torch.export.export(graph, (x[:4], mask[:4]), dynamic_shapes=({0: batch}, {0: batch}))
        torch.testing.assert_close(program.module()(x, mask), graph(x, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "batch"}, "normalize = 'batch' is not known; use one of none, window, last, season"),
        ({"season": 0}, "season = 0 is below 1; use season=1 or more"),
        ({"normalize": "season", "season": 21}, "season = 21 does not fit context = 20; use a season of 1 to 20"),
        (
            {"normalize": "none", "normalize_affine": True},
            "normalize_affine = True goes with normalized windows, got normalize = 'none'; drop one",
        ),
        *(
            (
                {"normalize": kind, "loss": "negative_binomial"},
                f"normalize = {kind!r} forecasts differences, and counts have none (loss = 'negative_binomial'); "
                "use normalize='window'",
            )
            for kind in ("last", "season")
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert str(error.value) == message
