"""Ridge: its closed form against plain solutions, and how it is fitted by tasks."""

from dataclasses import replace
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from seqmix import Forecaster
from seqmix.cli import run
from seqmix.data import Cycles
from seqmix.errors import ConfigError
from seqmix.forecasting.exporting import Graph
from seqmix.models import Ridge
from seqmix.series import Series
from seqmix.tasks import Forecasting

L, H, C = 12, 3, 2
SERIES = Series(C, L, H, season=4)


def batches(n=5, size=16, *, seed=0, **kinds):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(n * size, L + H, C, generator=g).cumsum(1)
    weight = torch.rand(n * size, C, generator=g) + 0.1
    return [
        {"x": rows[i : i + size, :L], "y": rows[i : i + size, L:], "weight": weight[i : i + size]}
        for i in range(0, n * size, size)
    ]


def plain(train, level, ridge, channels):
    """The normal equations, solved channel by channel in numpy."""
    x, y, w = (torch.cat([b[k] for b in train]).double().numpy() for k in ("x", "y", "weight"))
    base = x[:, -1:] if level == "last" else x.mean(1, keepdims=True) if level == "mean" else 0
    x, y = (np.concatenate([(v - base)[..., c] for c in channels]) for v in (x, y))
    w = np.concatenate([w[:, c] for c in channels])[:, None]
    gram = x.T @ (w * x) / w.sum()
    return np.linalg.solve(gram + ridge * np.trace(gram) / L * np.eye(L), x.T @ (w * y) / w.sum())


@pytest.mark.parametrize("level", ["last", "mean", "none"])
@pytest.mark.parametrize("weights", ["shared", "own"])
def test_the_closed_form_solves_the_normal_equations(level, weights):
    train, ridge = batches(), 0.3
    model = Ridge(SERIES, level=level, weights=weights, ridge=ridge).double()
    model.fit_closed_form(train, ())
    x = train[0]["x"].double()
    base = x[:, -1:] if level == "last" else x.mean(1, keepdim=True) if level == "mean" else 0 * x[:, :1]
    for c in range(C):
        want = plain(train, level, ridge, [c] if weights == "own" else range(C))
        got = model(x)[..., c]
        np.testing.assert_allclose(got.detach(), (x - base)[..., c].numpy() @ want + base[..., c].numpy(), atol=1e-9)


def test_fits_are_equal_to_the_bit_and_batches_change_rounding_only():
    train, val = batches(), batches(2, seed=1)
    fits = [Ridge(SERIES) for _ in range(3)]
    for model, given in zip(fits, (train, train, batches(1, 80)), strict=True):
        model.fit_closed_form(given, val)
    assert torch.equal(fits[0].weight, fits[1].weight)
    torch.testing.assert_close(fits[2].weight, fits[0].weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", ["shared", "own", "clustered"])
def test_left_out_windows_are_forecast_by_a_fit_to_the_others(weights):
    data = batches(5, 16)
    for inside, near in [(data[:1], data[:2]), (data[4:], data[3:])]:
        ridge = 0.1 if weights == "clustered" else None
        model = Ridge(SERIES, weights=weights, ridge=ridge)
        plain = Ridge(SERIES, weights="own" if weights == "clustered" else weights, ridge=ridge)
        if weights == "clustered":
            model.labels = torch.arange(C)
        ((batch, forecast),) = model.left_out(data, [(inside, near)])
        plain.fit_closed_form([each for each in data if not any(each is one for one in near)], ())
        assert batch is inside[0]
        torch.testing.assert_close(forecast, plain(batch["x"]))


def test_the_penalty_is_the_best_of_validation():
    train, val = batches(1, 8), batches(20, seed=1)

    def error(**options):
        model = Ridge(SERIES, weights="shared", **options).double()
        model.fit_closed_form(train, val)
        held = model._moments(val, range(H))
        return float(held.squared(0, model.weight[0].detach().T, torch.zeros(H, 0, dtype=torch.float64)).sum())

    found = [error(ridge=10.0**k) for k in range(-3, 6)]
    assert error() == pytest.approx(min(found)) and min(found) < found[0]


def test_channels_have_their_own_matrix_where_that_is_better_by_more_than_chance():
    """The first channel repeats itself, the second and the third turn round, or all do the same."""

    def rows(*signs, n):
        g, steps = torch.Generator().manual_seed(n), torch.arange(L + H)
        noise = torch.randn(n, L + H, len(signs), generator=g)
        waves = torch.sin(steps[:, None] * torch.tensor([1.0 + s for s in signs]) + torch.rand(n, 1, 1, generator=g))
        values = waves + 0.3 * noise
        return [{"x": values[:, :L], "y": values[:, L:], "weight": torch.ones(n, len(signs))}]

    for signs, different in (((0.0, 1.0, 1.0), True), ((0.0, 0.0, 0.0), False)):
        model = Ridge(Series(3, L, H), level="none")
        model.fit_closed_form(rows(*signs, n=300), rows(*signs, n=100))
        assert (not torch.equal(model.weight[0], model.weight[1])) == different


def kinds_of(signs, n, seed):
    """Channels that repeat themselves, sign 1, or turn round at every step, sign -1."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, len(signs), generator=g)
    values = x * torch.tensor(signs) ** torch.arange(L + H)[:, None]
    values = values + 0.3 * torch.randn(values.shape, generator=g)
    return {"x": values[:, :L], "y": values[:, L:], "weight": torch.ones(n, len(signs))}


@pytest.mark.parametrize("held", [True, False])
def test_planted_clusters_of_channels_are_found(held):
    signs = [1.0, -1, 1, -1, -1, 1]
    model = Ridge(Series(len(signs), L, H), level="none", weights="clustered")
    model.fit_closed_form([kinds_of(signs, 300, 0)], [kinds_of(signs, 100, 1)] if held else [])
    same = torch.tensor([[bool(torch.equal(a, b)) for a in model.weight] for b in model.weight])
    assert torch.equal(same, torch.tensor(signs)[:, None] == torch.tensor(signs))


@pytest.mark.parametrize("held", [True, False])
def test_kinds_of_windows_have_their_own_matrix(held):
    """Windows that go on and windows that turn round at every step: that is to be seen in each of them."""

    def rows(n, seed):
        g, phi = torch.Generator().manual_seed(seed), torch.tensor([1.0, -0.9]).repeat(n)
        values = [torch.randn(2 * n, generator=g)]
        for _ in range(L + H - 1):
            values.append(phi * values[-1] + torch.randn(2 * n, generator=g))
        values = torch.stack(values, 1).unsqueeze(2)
        return {"x": values[:, :L], "y": values[:, L:], "weight": torch.ones(2 * n, 1)}

    train, val, test = rows(400, 0), rows(100, 1), rows(100, 2)
    models = [Ridge(Series(1, L, H), level="none", weights=weights, ridge=0.1) for weights in ("shared", "clustered")]
    errors = []
    for model in models:
        model.fit_closed_form([train], [val] if held else [])
        errors.append((model(test["x"]) - test["y"]).square().mean().detach())
    assert errors[1] < 0.9 * errors[0]
    # what is saved is all there is
    again = Ridge(Series(1, L, H), level="none", weights="clustered")
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(test["x"]), model(test["x"]))


def series_of_two_kinds(n=16, steps=80):
    """Series that go on and series that turn round at every step, as a frame."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(steps, n))
    for t in range(1, steps):
        values[t] += np.resize([1.0, -0.9], n) * values[t - 1]
    ids, ds = np.repeat([f"s{k:02}" for k in range(n)], steps), np.tile(np.arange(steps), n)
    return pd.DataFrame({"unique_id": ids, "ds": ds, "y": values.T.ravel()})


def test_a_forecaster_of_many_series_tells_kinds_of_windows(tmp_path):
    """The default; equal to the bit when it is fitted again, from a folder, and after it was saved."""
    df = series_of_two_kinds()
    fits = [Forecaster("Ridge", 3, context_length=12, levels=[80], device="cpu") for _ in range(2)]
    found = fits[0].fit(df).predict()
    assert len(fits[0].tasks_["Ridge"].model.weight) > 1
    (tmp_path / "rows").mkdir()
    for k, part in enumerate(np.array_split(df["unique_id"].unique(), 3)):
        df[df["unique_id"].isin(part)].to_parquet(tmp_path / "rows" / f"{k}.parquet")
    pd.testing.assert_frame_equal(fits[1].fit(tmp_path / "rows").predict(), found, check_dtype=False)
    fits[0].save(tmp_path / "saved")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "saved").predict(), found)
    # and as a graph, whose scale of a series follows from its window as for one that was not fitted
    new = df[df["unique_id"] == "s01"].tail(12).assign(unique_id="new")
    x = torch.tensor(new["y"].to_numpy())[None, :, None]
    graph = Graph(fits[0].fitted_, fits[0].fitted_.members[0]).eval()(x, ~x.isnan())
    for y, name in zip(graph, ("Ridge", "Ridge-lo-80", "Ridge-hi-80"), strict=True):
        np.testing.assert_allclose(y[0, :, 0].detach(), fits[0].predict(new)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("horizon", [1, H])
def test_one_kind_of_windows_is_one_matrix(horizon):
    """Of few windows; no more weights than with ``shared``, which are the same, and whose state is read."""
    x = torch.randn(20, L + horizon, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
    train = [{"x": x[:, :L], "y": x[:, L:], "weight": torch.ones(20, 1)}]
    models = [Ridge(Series(1, L, horizon), **kinds) for kinds in ({}, {"weights": "shared"})]
    for model in models:
        model.fit_closed_form(train, ())
    assert models[0].cells is not None and torch.equal(models[0].weight, models[1].weight)
    again = Ridge(Series(1, L, horizon))
    again.load_state_dict(models[1].state_dict())
    assert torch.equal(again(x[:, :L]), models[1](x[:, :L]))


def test_clusters_are_not_worse_than_one_matrix_on_validation():
    train, val = batches(2, 40), batches(2, 40, seed=1)
    models = [Ridge(SERIES, weights=weights) for weights in ("shared", "clustered")]
    for model in models:
        model.fit_closed_form(train, val)
    shared, clustered = (
        sum(((model(b["x"]) - b["y"]).square().mean(1) * b["weight"]).sum(0) for b in val) for model in models
    )
    assert (clustered <= shared).all()


@pytest.mark.parametrize("weights", ["shared", "own"])
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_window_counts_at_the_steps_that_it_has_targets_of(weights, in_parts, monkeypatch):
    """Each step as a weighted least squares of its own, in numpy."""
    train = batches()
    for k, batch in enumerate(train):
        g = torch.Generator().manual_seed(k)
        batch["y_mask"] = torch.rand(batch["y"].shape, generator=g) > torch.tensor([0.0, 0.2, 0.7])[:, None]
        batch["y_mask"][3] = False
        batch["y"] = batch["y"].masked_fill(~batch["y_mask"], 1e6)
    if in_parts:
        monkeypatch.setattr("seqmix.models.ridge._MOST_LACKING", 1)
    model = Ridge(SERIES, weights=weights, ridge=0.3).double()
    model.fit_closed_form(train, ())
    x, y, seen, weight = (torch.cat([b[k] for b in train]).double() for k in ("x", "y", "y_mask", "weight"))
    for h in range(H):
        step = [{"x": x, "y": y[:, h : h + 1], "weight": weight * seen[:, h]}]
        for c in range(C):
            want = plain(step, "last", 0.3, [c] if weights == "own" else range(C))
            rows = (x - x[:, -1:])[..., c].numpy() @ want[:, 0] + x[:, -1, c].numpy()
            np.testing.assert_allclose(model(x)[:, h, c].detach(), rows, atol=1e-9)


def test_a_step_without_any_target_is_forecast_as_the_last_value():
    train = [{**batch, "y_mask": torch.arange(H)[:, None].expand(16, H, C) > 0} for batch in batches()]
    model = Ridge(SERIES, weights="shared")
    model.fit_closed_form(train, train[:1])
    y = model(train[0]["x"])
    torch.testing.assert_close(y[:, 0], train[0]["x"][:, -1])
    assert not torch.equal(y[:, 1], y[:, 0])


@pytest.mark.parametrize("cyclic", [True, False])
def test_the_cycle_is_found_without_time_stamps_and_kept_where_it_helps(cyclic):
    """Two seasons of noise say less about a course than all windows do."""
    P, horizon = 12, 6
    series = Series(C, 2 * P, horizon, season=P)

    def rows(n, seed):
        g = torch.Generator().manual_seed(seed)
        phases = torch.randint(P, (n, 1), generator=g)
        course = torch.randn(P, C, generator=torch.Generator().manual_seed(9)) * cyclic
        values = course[(phases + torch.arange(2 * P + horizon)) % P] * 2 + torch.randn(n, 3 * P - 6, C, generator=g)
        return {"x": values[:, : 2 * P], "y": values[:, 2 * P :], "weight": torch.ones(n, C)}, phases.flatten()

    train, _ = rows(400, 0)
    (val, phases), plain, model = rows(200, 1), Ridge(series), Ridge(series, cycle=True)
    for each in (plain, model):
        each.fit_closed_form([train], [val])
    assert bool(model.cycle.course.any()) == cyclic
    errors = [(each(val["x"]) - val["y"]).square().mean() for each in (plain, model)]
    if not cyclic:
        torch.testing.assert_close(model(val["x"]), plain(val["x"]))
        return
    assert errors[1] < 0.9 * errors[0]
    # the course begins anywhere
    found = model.cycle.phase(model.cycle._season(val["x"]))
    assert ((found - phases) % P).bincount(minlength=P).max() > 180


@pytest.mark.parametrize("kind", ["future", "static", "past"])
def test_planted_effects_of_covariates_are_found(kind):
    """A random walk, and an effect that the window cannot tell."""

    def given(n, seed):
        g = torch.Generator().manual_seed(seed)
        rows = torch.randn(n, L + H, C, generator=g, dtype=torch.float64).cumsum(1)
        shapes = {"future": (n, L + H, 2), "static": (n, C, 2), "past": (n, L, 2)}
        z = torch.randn(shapes[kind], generator=g, dtype=torch.float64)
        effect = {"future": z @ torch.tensor([[2.0], [-1]], dtype=z.dtype)}
        effect["static"] = torch.arange(1, H + 1)[:, None] * 3 * z[..., 0].unsqueeze(1)
        effect["past"] = (z[:, -1:, :1] - z[:, -3:-2, 1:]) * 5
        if kind == "future":
            rows += effect[kind]
        else:
            rows[:, L:] += effect[kind]
        return {"x": rows[:, :L], "y": rows[:, L:], "weight": torch.ones(n, C, dtype=z.dtype), kind: z}

    model = Ridge(replace(SERIES, **{f"n_{kind}": 2}), weights="own").double()
    model.fit_closed_form([given(400, 0)], [given(100, 1)])
    test = given(200, 2)
    error = (model(test["x"], **{kind: test[kind]}) - test["y"]).square().mean()
    # that of a random walk over three steps is 2
    assert 1.5 < error < 2.6


def test_inputs_of_a_step_are_eliminated_exactly():
    """Block by block as all at once: the normal equations of one step, in numpy."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(50, L + H, 1, generator=g, dtype=torch.float64).cumsum(1)
    future = torch.randn(50, L + H, 2, generator=g, dtype=torch.float64)
    batch = {"x": rows[:, :L], "y": rows[:, L:], "weight": torch.ones(50, 1, dtype=rows.dtype), "future": future}
    model = Ridge(Series(1, L, H, n_future=2), ridge=0.1).double()
    model.fit_closed_form([batch], ())
    last = rows[:, L - 1].numpy()
    x, light = rows[:, :L, 0].numpy() - last, 10
    unit = (x**2).mean()
    window = np.concatenate([future[:, L - 1].numpy(), future[:, :L].mean(1).numpy()], 1)
    ahead = future[:, L:].numpy().copy()
    window *= light * np.sqrt(unit / (window**2).mean(0))
    ahead *= light * np.sqrt(unit / (ahead**2).mean((0, 1)))
    for h in range(H):
        z = np.concatenate([x, window, ahead[:, h]], 1)
        w = np.linalg.solve(z.T @ z / 50 + 0.1 * unit * np.eye(z.shape[1]), z.T @ (rows[:, L + h].numpy() - last) / 50)
        np.testing.assert_allclose(model(batch["x"], future=future)[:, h].detach(), z @ w + last, atol=1e-8)


def test_a_constant_series_keeps_its_value():
    rows = torch.full((4, L + H, C), 7.0)
    model = Ridge(SERIES)
    model.fit_closed_form([{"x": rows[:, :L], "y": rows[:, L:], "weight": torch.ones(4, C)}], ())
    torch.testing.assert_close(model(rows[:, :L]), rows[:, L:])


@pytest.mark.parametrize("n_future", [0, 2])
@pytest.mark.parametrize("ridge", [0.3, None])
def test_steps_of_nearly_the_same_rows_share_one_decomposition(ridge, n_future, monkeypatch):
    """Exact all the same: one target in ten is missing, and in the first batch none at the first step."""
    train, g = batches(20), torch.Generator().manual_seed(2)
    for batch in train:
        batch["y_mask"] = torch.rand(batch["y"].shape, generator=g) > torch.tensor([0.0, 0.1, 0.1])[:, None]
        batch["future"] = torch.randn(len(batch["x"]), L + H, n_future, generator=g)
    decompose, calls, models = torch.linalg.eigh, [], []
    monkeypatch.setattr("seqmix.models._ridge_search._LARGE", L)
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: calls.append(1) or decompose(x))
    for alike in (0.8, 2.0):
        monkeypatch.setattr("seqmix.models._ridge_search._ALIKE", alike)
        models.append(Ridge(replace(SERIES, n_future=n_future), weights="shared", ridge=ridge).double())
        models[-1].fit_closed_form(train, ())
    assert len(calls) == 1 + H
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-9, atol=1e-9)


def test_missing_values_are_the_ones_before_them():
    model, x = Ridge(SERIES), torch.arange(1.0, L + 1).repeat(C, 1).T.unsqueeze(0)
    mask = torch.ones(1, L, C, dtype=torch.bool)
    mask[:, -2:, 0] = False
    y = model(x.masked_fill(~mask, 99), mask=mask)
    assert y[0, :, 0].tolist() == [10] * H and y[0, :, 1].tolist() == [12] * H
    assert not model(x, mask=torch.zeros_like(mask)).any()


@pytest.mark.parametrize("normalize", ["none", "window", "last", "season"])
def test_a_trainer_fits_it_without_steps(normalize):
    """Normalization of windows moves and scales them; the least squared error is that of the data."""
    data = Cycles(context=48, horizon=8, batch_size=64)
    task = Forecasting(partial(Ridge, ridge=0.1), data.series, normalize=normalize)
    trainer = pl.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(task, data)
    assert trainer.global_step == 0
    plain = Forecasting(partial(Ridge, ridge=0.1), data.series, normalize="none")
    plain.model.fit_closed_form(
        [{**b, "weight": torch.ones(len(b["x"]), b["x"].shape[2])} for b in data.train_dataloader()], ()
    )
    batch = next(iter(data.test_dataloader()))
    torch.testing.assert_close(task(batch), plain(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "season"}, "season = 13 does not fit context = 12; use a longer context, or level=last"),
        ({"cycle": True}, "season = 13 does not fit context = 12; use a longer context, or leave out cycle"),
        ({"ridge": 0.0}, "ridge must be above 0, got 0.0; use for example 0.1, or leave it out"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        Ridge(Series(C, L, H, season=13), **options)
    assert str(error.value) == message


def test_what_takes_steps_is_refused():
    with pytest.raises(ConfigError, match="Ridge has the least squared error in closed form, and the loss takes 3"):
        Forecasting(Ridge, SERIES, loss="quantile")
    with pytest.raises(ConfigError, match="normalize_affine is learned in gradient steps, and Ridge takes none"):
        Forecasting(Ridge, SERIES, normalize_affine=True)


def test_the_command_line_fits_keeps_and_tests_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = ["--data.context", "24", "--data.horizon", "8", "--data.n_steps", "600", "--name", "tiny"]
    options = ["--model", "Forecasting", "--model.model", "Ridge", "--data", "Cycles", *size, "--baselines", "[]"]
    options += ["--trainer.accelerator", "cpu"]
    assert run(["fit", *options]) == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "results.csv"} < {p.name for p in folder.iterdir()}
    assert capsys.readouterr().out.startswith("closed form  val mse ")
    (score,) = pd.read_csv(folder / "metrics.csv")["val_mse"]
    # what a search compares
    assert torch.load(folder / "best.ckpt", weights_only=False)["run"]["best"][0] == pytest.approx(score)
    before = (folder / "results.csv").read_text()
    # the checkpoint gives the row again, which is then not added
    assert run(["test", *options, "--ckpt_path", "best"]) == 0
    assert (folder / "results.csv").read_text() == before and before.count("Ridge") == 1


def test_a_forecaster_round_trip(tmp_path):
    steps = np.arange(300)
    frames = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range("2024-01-01", periods=len(steps), freq="h"),
                "promo": np.random.default_rng(i).integers(0, 2, len(steps)),
            }
        )
        for i, name in enumerate(("a", "b"))
    ]
    df = pd.concat([each.assign(y=np.sin(steps * np.pi / 12) * 5 + 40 + 7 * each["promo"]) for each in frames])
    df, ahead = df.groupby("unique_id").head(288), df.groupby("unique_id").tail(12)
    df.loc[(df["unique_id"] == "b") & (df["ds"] == df["ds"].iloc[100]), "y"] = np.nan
    fc = Forecaster("Ridge", horizon=12, context_length=48, future_covariates=["promo"], levels=[80]).fit(df)
    known = ahead[["unique_id", "ds", "promo"]]
    found = fc.predict(future_df=known)
    # the promotion adds 7, half of the time
    assert (found["Ridge"] - ahead["y"].to_numpy()).abs().mean() < 1.5
    assert (found["Ridge-lo-80"] <= found["Ridge"]).all() and (found["Ridge"] <= found["Ridge-hi-80"]).all()
    fc.save(tmp_path / "ridge")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "ridge").predict(future_df=known), found)


def test_intervals_need_no_validation_rows():
    """Series that grow wilder: intervals hold the truth as often as they should, and the last rows are fitted too."""
    rng = np.random.default_rng(0)
    n, steps = 40, 160
    noise = rng.normal(size=(n, steps)).cumsum(1) * np.linspace(1, 4, steps)
    frame = pd.DataFrame({"unique_id": np.repeat(np.arange(n), steps), "ds": np.tile(np.arange(steps), n)})
    frame["y"] = noise.ravel()
    train, test = frame[frame["ds"] < 150], frame[frame["ds"] >= 150]
    fc = Forecaster("Ridge", horizon=10, context_length=20, levels=[50, 80]).fit(train)
    assert "no rows are held out" in fc.notes_[-1] and fc.history_.empty
    found = fc.predict()
    for level, least in ((50, 40), (80, 70)):
        inside = test["y"].between(*(found.set_index(test.index)[f"Ridge-{side}-{level}"] for side in ("lo", "hi")))
        assert least < 100 * inside.mean() < least + 20


def test_intervals_are_as_wide_as_the_last_window_is_wild():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"unique_id": np.repeat(np.arange(20), 100), "ds": np.tile(np.arange(100), 20)})
    frame["y"] = rng.normal(size=2000)
    fc = Forecaster("Ridge", horizon=4, context_length=12, levels=[80]).fit(frame)
    calm = fc.predict(frame.assign(y=frame["y"].where(frame["ds"] < 88, frame["y"] / 3)))
    usual = fc.predict()
    widths = [(found["Ridge-hi-80"] - found["Ridge-lo-80"]).mean() for found in (calm, usual)]
    assert widths[0] == pytest.approx(widths[1] / 3, rel=0.05)
