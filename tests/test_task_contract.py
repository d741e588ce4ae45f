"""The task with every model: it learns, counts every window, and spares from decay what must not decay."""

import inspect
import math
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from learning import share_left

import seqmix.tasks
from seqmix.commands.train import Train
from seqmix.data import Cycles
from seqmix.errors import ConfigError
from seqmix.importing import load_names
from seqmix.mixers import Identity, MatrixMixer, Pool, Toeplitz
from seqmix.models import TSM2, DLinear, MixerForecaster, SeasonalNaive, list_models, model_facts
from seqmix.series import Series
from seqmix.tasks import LAMB, AdamW, Forecasting, Task
from seqmix.tasks._optim import lr_factor, param_groups


def quiet_trainer(folder, **options):
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(default_root_dir=folder, **{**defaults, **options})


def _data(**options):
    return Cycles(24, 8, **{"batch_size": 64, "n_channels": 3, "n_steps": 400, **options})


# weights that do not move in float32
STILL = AdamW(lr=1e-12, weight_decay=0.0, schedule="constant")
TRAINED = [n for n in list_models() if n != "SeasonalNaive"]


load_names(seqmix.tasks)


def _concrete(cls):
    yield from (cls for _ in range(not inspect.isabstract(cls)))
    for child in cls.__subclasses__():
        yield from _concrete(child)


@pytest.mark.parametrize("cls", [c for c in _concrete(Task) if c.__module__.startswith("seqmix.")])
def test_one_training_step_for_every_task(cls):
    """Auxiliary losses, casts and logging cannot be forgotten, and every task has a table of results."""
    assert cls.training_step is Task.training_step
    assert cls.table.name and {*cls.table.facts} <= {*cls.facts}


@pytest.mark.parametrize("name", TRAINED)
def test_one_batch_is_learned_by_heart(name):
    cls, _, example = model_facts(name)
    options = {k: v for k, v in {"dropout": 0.0, "head_dropout": 0.0}.items() if k in cls.__init__.__kwdefaults__}
    task = Forecasting(partial(cls, **{**example, **options}), Series(3, 24, 8))
    batch = {"x": torch.randn(4, 24, 3), "y": torch.randn(4, 8, 3)}
    # noise: nothing but the training windows themselves can be learned
    assert share_left(task, batch, 60, lr=0.02) < 0.5


@pytest.mark.parametrize("eval_batch_size", [1, 7, 64])
def test_metrics_are_over_every_window(eval_batch_size, tmp_path):
    """Sum over all values divided by their count: a ragged last batch weighs what its windows weigh."""
    task = Forecasting(DLinear, Series(3, 24, 8), normalize="none")
    data = _data(eval_batch_size=eval_batch_size)
    trainer = quiet_trainer(tmp_path)
    (metrics,) = trainer.test(task, data, verbose=False)
    assert metrics["test_windows"] == len(data._splits["test"]) == 73
    batch = data._splits["test"].gather(torch.arange(73))
    with torch.no_grad():
        error = (task.model(batch["x"]) - batch["y"]).double()
    assert metrics["test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-6)
    assert metrics["test_mae"] == pytest.approx(float(error.abs().mean()), rel=1e-6)
    # a second pass starts from zero
    assert trainer.test(task, data, verbose=False) == [metrics]


def test_the_last_season_again_on_a_pure_cycle(tmp_path):
    """A forecast that is right is scored as right; one step out of phase it is not."""
    scores = []
    for season in (24, 23):
        task = Forecasting(partial(SeasonalNaive, season=season), Series(1, 24, 8))
        data = _data(n_channels=1)
        data.setup()
        hours = torch.arange(len(data._splits["test"].values))
        data._splits["test"].values.copy_(torch.sin(2 * math.pi * hours / 24).unsqueeze(1))
        (metrics,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
        scores.append(metrics["test_mse"])
    assert scores[0] < 1e-9 < 1e-2 < scores[1]


def test_quantiles(tmp_path):
    levels = [0.1, 0.5, 0.8]
    task = Forecasting(DLinear, Series(3, 24, 8), loss="quantile", quantiles=levels, normalize="none")
    batch = {"x": torch.randn(5, 24, 3), "y": torch.randn(5, 8, 3)}
    task.log = lambda *a, **k: None
    raw = task.model(batch["x"])
    want = 0.0
    for k, q in enumerate(levels):
        e = batch["y"] - raw[..., k]
        want += torch.where(e > 0, q * e, (q - 1) * e).mean() / 3
    torch.testing.assert_close(task.training_step(batch, 0), want)

    task.eval()
    out = task.predict_step(batch, 0)
    assert list(out) == ["y", "yhat", "yhat-0.1", "yhat-0.5", "yhat-0.8"]
    assert (raw.diff(dim=-1) < 0).any()
    assert (out["yhat-0.1"] <= out["yhat"]).all() and (out["yhat"] <= out["yhat-0.8"]).all()
    torch.testing.assert_close(out["yhat"], raw.sort(dim=-1).values[..., 1])

    single = Forecasting(DLinear, Series(3, 24, 8), loss="quantile", quantiles=[0.5], normalize="none")
    single.log = task.log
    half = 0.5 * (batch["y"] - single.model(batch["x"])).abs().mean()
    torch.testing.assert_close(single.training_step(batch, 0), half)


@pytest.mark.parametrize(("loss", "want"), [("mse", 4.0), ("mae", 2.0), ("huber", 1.5)])
def test_losses_by_hand(loss, want):
    task = Forecasting(SeasonalNaive, Series(1, 24, 8), loss=loss)
    task.log = lambda *a, **k: None
    batch = {"x": torch.zeros(2, 24, 1), "y": torch.full((2, 8, 1), 2.0)}
    assert float(task.training_step(batch, 0)) == want


def test_covariates_reach_a_model_that_takes_them_and_no_other(tmp_path):
    data = _data(calendar=True)
    task = Forecasting(partial(TSM2, d_model=4, n_layers=1), Series(3, 24, 8, n_future=data.series.n_future))
    batch = next(iter(data.val_dataloader()))
    task.eval()
    changed = {**batch, "future": batch["future"] + 1}
    assert not torch.allclose(task(batch), task(changed))
    Forecasting(DLinear, Series(3, 24, 8))(batch)


@pytest.mark.parametrize(
    ("name", "densify"),
    [("MixerForecaster", False), ("MixerForecaster", True), ("TSM2", False), ("TSM2", True), ("DLinear", False)],
)
def test_all_kinds_of_covariates_reach_the_model(name, densify):
    cls, _, example = model_facts(name)
    task = Forecasting(partial(cls, **example), Series(3, 24, 8, n_future=2, n_static=1, n_past=2)).eval()
    if densify:
        task.densify()
    shapes = {"x": (2, 24, 3), "future": (2, 32, 2), "static": (2, 3, 1), "past": (2, 24, 2)}
    batch = {key: torch.randn(shape) for key, shape in shapes.items()}
    y = task(batch)
    for key in shapes:
        assert not torch.allclose(task({**batch, key: torch.randn(shapes[key])}), y), key


def test_no_decay_on_norms_biases_and_state_space_rates():
    task = Forecasting(partial(TSM2, d_model=4, n_layers=1), Series(3, 24, 8))
    decay, rest = param_groups(task, 0.1)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    name_of = {id(p): n for n, p in task.named_parameters()}
    spared = {name_of[id(p)] for p in rest["params"]}
    decayed = {name_of[id(p)] for p in decay["params"]}
    assert spared | decayed == set(name_of.values()) and not spared & decayed
    ends = {n.rpartition(".")[2] for n in spared}
    assert {"A_log", "D", "bias"} <= ends
    assert not any(n.endswith(("A_log", ".D", "bias")) for n in decayed)
    assert any("head" in n and n.endswith("weight") for n in decayed)


def test_schedule():
    cosine = lr_factor("cosine", 0.1, 100)
    assert [cosine(s) for s in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert cosine(55) == pytest.approx(0.5) and cosine(100) == pytest.approx(0, abs=1e-12) == cosine(120)
    constant = lr_factor("constant", 0.1, 100)
    assert (constant(4), constant(99)) == (0.5, 1.0)
    with pytest.raises(ConfigError, match="needs the end of training"):
        lr_factor("cosine", 0.0, math.inf)
    assert lr_factor("constant", 0.0, math.inf)(10**6) == 1.0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 15),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 9),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 6),
        ({"max_epochs": 3, "max_steps": 4}, 4),
        ({"max_epochs": -1, "max_steps": 7}, 7),
    ],
)
def test_the_schedule_ends_with_training(options, steps, tmp_path):
    """280 training rows make 249 windows, 5 batches of 64 less a part: the rate is zero after the last step."""
    task = Forecasting(DLinear, Series(3, 24, 8), patience=None)
    trainer = quiet_trainer(tmp_path, limit_val_batches=1, **options)
    trainer.fit(task, _data(batch_size=50))
    assert trainer.global_step == steps
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 1.0}, "warmup is a fraction of all steps, 0 <= warmup < 1, got 1.0; use for example 0.1"),
        ({"lr": 0.0}, "lr must be positive, got 0.0; use for example 5e-4"),
        ({"lr": math.nan}, "lr must be positive, got nan; use for example 5e-4"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0; use for example 0.01"),
        ({"layer_decay": 0.0}, "layer_decay is a factor, 0 < layer_decay <= 1, got 0.0; use 0.8, or 1"),
        ({"schedule": "linear"}, "schedule = 'linear' is not known; use one of cosine, constant"),
    ],
)
@pytest.mark.parametrize("optim", [AdamW, LAMB])
def test_options_of_optimizers(optim, options, message):
    with pytest.raises(ConfigError) as error:
        optim(**options)
    assert str(error.value) == message


def test_the_command_line_changes_one_option_of_the_optimizer():
    """Others stay those of the config, or of the task; another class starts from its own defaults."""
    always = ["--model", "Classification", "--model.model", "SequenceClassifier", "--model.model.mixer", "Pool"]
    always += ["--data", "ListOps", "--data.root", "."]
    for flags, want in [
        (["--model.optim.lr", "0.5"], (AdamW, 0.5, 0.1)),
        (["--model.optim", "AdamW", "--model.optim.warmup", "0.5"], (AdamW, 1e-3, 0.5)),
        (["--model.optim", "LAMB", "--model.optim.lr", "0.5"], (LAMB, 0.5, 0.0)),
    ]:
        optim = Train("fit", [*always, *flags]).model.optim
        assert (type(optim), optim.lr, optim.warmup) == want


def test_layer_decay_needs_ordered_blocks():
    with pytest.raises(
        ConfigError, match=r"layer_decay = 0.5 needs to know the order of the blocks, Forecasting does not"
    ):
        Forecasting(DLinear, Series(3, 24, 8), optim=AdamW(layer_decay=0.5))


def test_early_stopping_counts_validations(tmp_path):
    task = Forecasting(DLinear, Series(3, 24, 8), optim=STILL, patience=2)
    # the first validation stays the best
    trainer = quiet_trainer(tmp_path, max_epochs=9)
    trainer.fit(task, _data())
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": [0.5]}, "quantiles = [0.5] go with loss = 'quantile', got loss = 'mse'; drop one of them"),
        (
            {"loss": "quantile", "quantiles": [0.1, 0.9]},
            "quantiles must rise between 0 and 1 and hold 0.5, whose forecast is scored, got [0.1, 0.9]; "
            "use for example [0.1, 0.5, 0.9]",
        ),
        ({"patience": 0}, "patience must be at least 1, got 0; use null to train to the end"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        Forecasting(DLinear, Series(3, 24, 8), **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"mixer": Pool}, "MixerForecaster (Pool)"),
        ({"layers": [Pool, Identity]}, "MixerForecaster (Pool+Identity)"),
        (
            {"mixer": partial(MatrixMixer, matrix=Toeplitz, headdim=8)},
            "MixerForecaster (MatrixMixer of Toeplitz)",
        ),
    ],
)
def test_results_name_the_mixers(options, label):
    factory = partial(MixerForecaster, d_model=8, n_layers=2, patch_len=8, patch_stride=8, **options)
    assert Forecasting(factory, Series(2, 24, 8)).label == label
    assert Forecasting(DLinear, Series(2, 24, 8)).label == "DLinear"
    # a season that is not that of the data is said
    naive = [Forecasting(partial(SeasonalNaive, season=s), Series(2, 24, 8, season=24)).label for s in (24, 1)]
    assert naive == ["SeasonalNaive", "SeasonalNaive (season 1)"]
