"""Classifiers of series: any mixer, any forecasting model, masks, pooling."""

from functools import partial

import pytest
import torch

from seqmix.errors import ConfigError
from seqmix.mixers import Attention, Hydra, Pool
from seqmix.models import (
    TSM2,
    DLinear,
    ForecastModelClassifier,
    MixerClassifier,
    Pooling,
    RandomConvolutions,
    Ridge,
    SeriesEmbedding,
    _ridge_of_features,
    classifier_factory,
    classifier_facts,
    list_classifiers,
)
from seqmix.models._ridge_of_features import dual_ridge, fit_ridge

C, K, L = 3, 4, 23
MODELS = {
    **{name: partial(classifier_facts(name)[0], **classifier_facts(name)[2]) for name in list_classifiers()},
    **{
        f"Hydra, {pool}": partial(
            MixerClassifier, mixer=Hydra, d_model=32, n_layers=1, pool=pool, patch_len=7, patch_stride=4
        )
        for pool in ("max", "last", "attention")
    },
    "Attention, learned": partial(MixerClassifier, mixer=Attention, d_model=8, positions="learned"),
    "Pool, sinusoidal": partial(MixerClassifier, mixer=Pool, d_model=8, positions="sinusoidal"),
    "TSM2": partial(ForecastModelClassifier, model=partial(TSM2, d_model=8, n_layers=1, patch_len=4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_padding_has_no_part_in_the_scores_and_every_parameter_learns(name):
    torch.manual_seed(0)
    model = MODELS[name](C, K, L)
    x, mask = torch.randn(3, L, C), torch.ones(3, L, dtype=torch.bool)
    mask[1, 9:] = False
    model.eval()
    scores = model(x, mask)
    assert scores.shape == (3, K)
    assert model.label
    filled = torch.where(mask.unsqueeze(-1), x, torch.nan)
    assert torch.equal(model(filled, mask), scores)
    torch.testing.assert_close(model(x[1:2, :9], mask[1:2, :9]), scores[1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(x[:1]), scores[:1], atol=1e-5, rtol=1e-4)
    model.train()
    model(x, mask).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_series_without_a_kept_step_is_pooled_to_zeros():
    x, mask = torch.full((1, 4, 5), torch.nan), torch.zeros(1, 4, dtype=torch.bool)
    for how in ("mean", "max", "last", "attention"):
        assert torch.equal(Pooling(5, how)(x, mask), torch.zeros(1, 5)), how


def test_attention_pooling_starts_as_the_mean_and_finds_the_step_that_matters():
    x = torch.randn(2, 9, 5)
    pool = Pooling(5, "attention", n_heads=2)
    torch.testing.assert_close(pool(x), x.mean(1))
    x[:, 4, 0] = 100.0
    with torch.no_grad():
        pool.score.weight[1, 0] = 1.0
    torch.testing.assert_close(pool(x), x[:, 4])


@pytest.mark.parametrize(("length", "n"), [(1, 1), (4, 1), (5, 2), (16_000, 4_000)])
def test_a_token_reads_the_steps_around_its_own(length, n):
    embed = SeriesEmbedding(1, 1, patch_len=6, patch_stride=4)
    torch.nn.init.ones_(embed.conv.weight), torch.nn.init.zeros_(embed.conv.bias)
    x = torch.arange(1.0, length + 1).view(1, -1, 1)
    y, mask = embed(x, x[..., 0] <= 4)
    assert (y.shape[1], embed.n_tokens(length)) == (n, n)
    assert y[0, 0, 0] == x[0, :5].sum()
    assert mask.sum() == 1


def test_names_and_classes_become_classifiers():
    assert classifier_factory("MixerClassifier") is MixerClassifier
    assert classifier_factory("Mamba")(C, K, L).label == "Mamba"
    assert classifier_factory(partial(DLinear, kernel_size=5))(C, K, L).label == "DLinear"
    with pytest.raises(ConfigError, match=r"no classifier, model, encoder or mixer 'hydra'; did you mean 'Hydra'"):
        classifier_factory("hydra")


def test_bad_input_and_options_are_refused():
    model = MixerClassifier(C, K, L, mixer=Pool, d_model=8)
    with pytest.raises(ValueError, match=r"was built for real x of shape \(B, L, 3\), got .* \(2, 9, 4\)"):
        model(torch.zeros(2, 9, 4))
    with pytest.raises(ValueError, match=r"was built for max_len = 23 time steps, got x \(2, 24, 3\)"):
        model(torch.zeros(2, 24, C))
    with pytest.raises(ValueError, match=r"max_len = 23 time steps, got x \(2, 0, 3\)"):
        model(torch.zeros(2, 0, C))
    with pytest.raises(ValueError, match=r"mask should be \(B, L\) = \(2, 9\)"):
        model(torch.zeros(2, 9, C), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ConfigError, match="patch_len = 2 is below patch_stride = 4: steps between would be lost"):
        MixerClassifier(C, K, L, mixer=Pool, patch_len=2, patch_stride=4)
    with pytest.raises(ConfigError, match="Ridge is not trained by gradient steps"):
        ForecastModelClassifier(C, K, L, model=Ridge)
    with pytest.raises(ConfigError, match="n_classes = 0 is below 1"):
        MixerClassifier(C, 0, L)


def _bumps(n, length, channels, generator):
    """Series with a bump up or down, anywhere, of one channel; a third of them shorter."""
    x = 0.3 * torch.randn(n, length, channels, generator=generator)
    labels, at = torch.arange(n) % 2, torch.randint(2, length // 2, (n,), generator=generator)
    mask = torch.arange(length) < torch.where(torch.arange(n) % 3 == 0, length - 4, length)[:, None]
    x[torch.arange(n), at, 0] += 4.0 * (2 * labels - 1)
    return {"x": x * mask[..., None], "mask": mask, "labels": labels}


@pytest.mark.parametrize(("length", "channels"), [(23, 1), (40, 3), (2, 1), (1, 2)])
def test_random_convolutions_fit_few_series_in_closed_form(length, channels):
    torch.manual_seed(0)
    model = RandomConvolutions(channels, 2, length, n_features=1500, n_groups=4).eval()
    if length < 5:
        batches = [{"x": torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1).expand(4, length, channels)}]
        batches[0]["labels"] = torch.tensor([0, 1, 0, 1])
        test = batches[0]
    else:
        train, test = (_bumps(n, length, channels, torch.Generator().manual_seed(n)) for n in (30, 40))
        batches = [{k: v[i : i + 7] for k, v in train.items()} for i in range(0, 30, 7)]
    model.fit_closed_form(batches)
    scores = model(test["x"], test.get("mask"))
    assert float((scores.argmax(1) == test["labels"]).float().mean()) >= 0.9
    if length > 5:
        # padding has no part in them
        short = test["x"][:1, : length - 4], test["mask"][:1, : length - 4]
        torch.testing.assert_close(model(*short), scores[:1], atol=1e-4, rtol=1e-4)


def test_left_out_predictions_are_those_of_fits_without_the_example():
    torch.manual_seed(0)
    x, y = torch.randn(9, 30, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    x[:, 3] = 1.0
    fit = dual_ridge(x, y)
    z = (x - x.mean(0)) / x.std(0).where(x.std(0) > 0, torch.tensor(torch.inf, dtype=torch.float64))
    # the penalty that it has chosen, from the map of all examples
    K, target = z @ z.T, y - y.mean(0)
    found = x @ fit.weight + fit.bias - y.mean(0)
    penalties = torch.logspace(-7, 1, 17, dtype=torch.float64) * K.trace() / 9
    (penalty,) = [p for p in penalties if torch.allclose(K @ torch.linalg.solve(K + p * torch.eye(9), target), found)]
    torch.testing.assert_close(fit.penalty, penalty)
    for i in range(9):
        rest = torch.arange(9) != i
        # features as they were standardized, the level and the map anew
        A = torch.cat([z[rest], torch.ones(8, 1)], 1).double()
        ridge = penalty * torch.eye(31, dtype=torch.float64)
        ridge[-1, -1] = 0
        weights = torch.linalg.solve(A.T @ A + ridge, A.T @ y[rest])
        left_out = torch.cat([z[i], torch.ones(1)]) @ weights
        torch.testing.assert_close(fit.left_out[i], left_out, atol=1e-6, rtol=1e-6)


def test_the_ridge_of_many_examples_is_that_of_few(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(60, 200) @ torch.randn(200, 200) + 3
    x[:, 3] = 1.0
    y = x[:, :2] / 14 + torch.randn(60, 2)
    few = fit_ridge(x, y)
    assert few.rows.tolist() == list(range(60))
    monkeypatch.setattr(_ridge_of_features, "_MOST", 40)
    monkeypatch.setattr(_ridge_of_features, "_TOLERANCE", 1e-3)
    monkeypatch.setattr(_ridge_of_features, "dual_ridge", lambda x, y: few)
    many = fit_ridge(x, y)
    torch.testing.assert_close(x @ many.weight + many.bias, x @ few.weight + few.bias, atol=0.01, rtol=0)
    rest = torch.ones(60, dtype=torch.bool).index_fill(0, many.rows, False)
    z = (x - x[rest].mean(0)) * torch.where(x.std(0) > 1e-4, 1 / x.std(0), 0)
    K, level = (z[rest] @ z[rest].T).double(), y[rest].double().mean(0)
    want = z[many.rows].double() @ z[rest].T.double()
    want = want @ torch.linalg.solve(K + few.penalty * torch.eye(20), y[rest].double() - level) + level
    torch.testing.assert_close(many.left_out.double(), want, atol=0.01, rtol=0)
