"""A saved config makes the same experiment again, and a checkpoint the same model, nested factories included."""

from pathlib import Path

import pytest
import torch
import yaml

from seqmix.cli import run
from seqmix.commands._classes import prepare_parser
from seqmix.commands._parser import Parser
from seqmix.commands._settings import keeps_settings
from seqmix.commands.train import Train
from seqmix.mixers import Dense, Mamba2, Mixer
from seqmix.series import Series
from seqmix.tasks import AdamW, Forecasting

DATA = ["--data", "Cycles", "--data.context", "24", "--data.horizon", "8", "--data.n_channels", "2"]
DATA += ["--data.n_steps", "300", "--data.batch_size", "64", "--trainer.accelerator", "cpu"]
SMALL = "d_model: 4, n_layers: 3, patch_len: 8, patch_stride: 8"
OPTIM = "{class_path: AdamW, init_args: {lr: 0.1, warmup: 0.2}}"
MODELS = {
    "short name": "DLinear",
    "nested mixer": f"{{class_path: MixerForecaster, init_args: {{{SMALL}, mixer: "
    "{class_path: Mamba, init_args: {d_state: 2}}}}",
    "cycled layers": f"{{class_path: MixerForecaster, init_args: {{{SMALL}, layers: [FNet, "
    "{class_path: Pool, init_args: {pool_size: 5}}], channel_mixer: null}}",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_saved_config_and_checkpoint(model, tmp_path):
    argv = ["--model", "Forecasting", "--model.model", MODELS[model], "--model.loss", "quantile", *DATA]
    argv += ["--baselines", "[SeasonalNaive]", "--test", "false", "--trainer.max_epochs", "1", "--name", "first"]
    assert run(["fit", *argv]) == 0
    (folder,) = Path("runs/first").iterdir()

    again = Train("fit", ["--config", str(folder / "config.yaml"), "--name", "again"])
    saved, twice = (yaml.safe_load(text) for text in ((folder / "config.yaml").read_text(), again.text))
    assert saved.pop("name") == "first" and twice.pop("name") == "again"
    assert saved == twice
    assert "unable to serialize" not in (folder / "config.yaml").read_text().lower()
    # facts of the data are linked, not saved
    assert not {"series", "context"} & saved["model"]["init_args"].keys()

    loaded = Forecasting.load_from_checkpoint(folder / "best.ckpt").eval()
    again.model.load_state_dict(torch.load(folder / "best.ckpt", weights_only=True)["state_dict"])
    batch = {"x": torch.randn(2, 24, 2)}
    with torch.no_grad():
        assert torch.equal(loaded(batch), again.model.eval()(batch))
    assert loaded.quantiles == [0.1, 0.5, 0.9]


def test_flags_win_over_the_config_and_later_configs_over_earlier():
    Path("a.yaml").write_text(
        f"model: {{class_path: Forecasting, init_args: {{optim: {OPTIM}, model: {MODELS['nested mixer']}}}}}\n"
        "data: {class_path: Cycles, init_args: {context: 48, horizon: 8}}\n"
    )
    Path("b.yaml").write_text(
        "model: {init_args: {optim: {init_args: {lr: 0.2}}}}\ndata: {init_args: {batch_size: 5}}\n"
    )
    argv = ["--config", "a.yaml", "--config", "b.yaml", "--model.model.mixer", "FNet", "--model.model.n_layers", "2"]
    cli = Train("fit", argv)
    assert type(cli.model.optim) is AdamW and (cli.model.optim.warmup, cli.model.optim.weight_decay) == (0.2, 0.01)
    assert (cli.model.optim.lr, cli.datamodule.batch_size, cli.datamodule.context) == (0.2, 5, 48)
    mixers = [type(m).__name__ for m in cli.model.modules() if type(m).__module__.startswith("seqmix.mixers")]
    assert mixers == ["FNet", "FNet"]
    assert cli.config.name == "a"


def test_a_task_built_in_python_makes_checkpoints_of_plain_values(tmp_path):
    import lightning.pytorch as pl

    from seqmix.models import DLinear

    task = Forecasting(DLinear, Series(2, 24, 8), patience=7, optim=AdamW(lr=0.3))
    assert not {"model", "optim"} & task.hparams.keys() and task.hparams["patience"] == 7
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    loaded = Forecasting.load_from_checkpoint(tmp_path / "plain.ckpt", model=DLinear)
    assert loaded.patience == 7
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), task.parameters(), strict=True))


@pytest.mark.parametrize(
    "annotation", [int | float | None, float | int | None, None | float | int, float | int | str | None]
)
def test_one_batch_is_not_all_batches(annotation):
    """Lightning's ``int | float`` has either order, by what was imported before it."""
    prepare_parser()
    parser = Parser()
    parser.add_argument("--limit", type=annotation)
    found = [parser.parse_args([f"--limit={text}"]).limit for text in ("1", "1.0", "0.5", "null")]
    assert found == [1, 1.0, 0.5, None] and list(map(type, found)) == [int, float, float, type(None)]


@pytest.mark.parametrize("before", ["{class_path: Mamba, init_args: {d_state: 5, expand: 3}}", "null"])
def test_a_new_class_starts_from_its_own_defaults(before):
    named = "" if before == "null" else f", mixer: {before}"
    Path("a.yaml").write_text(
        f"model: {{class_path: Forecasting, init_args: {{model: {{class_path: MixerForecaster, "
        f"init_args: {{d_model: 64{named}}}}}}}}}\ndata: {{class_path: Cycles}}\n"
    )
    cli = Train("fit", ["--config", "a.yaml", "--model.model.mixer", "Mamba2", "--model.model.channel_mixer", "null"])
    assert not [m for m in cli.model.modules() if type(m).__name__ == "ChannelMLP"]
    mixer = next(m for m in cli.model.modules() if type(m).__name__ == "Mamba2")
    own = Mamba2(64)
    assert [p.shape for p in mixer.parameters()] == [p.shape for p in own.parameters()]


def test_densify():
    argv = [*DATA, "--model", "Forecasting", "--model.model", f"{MODELS['nested mixer']}", "--densify.head_dim", "4"]
    argv += ["--trainer.max_epochs", "1", "--baselines", "[]", "--name", "dense"]
    assert run(["fit", *argv]) == 0
    (folder,) = Path("runs/dense").iterdir()
    for cli in (Train("fit", argv), Train("fit", ["--config", str(folder / "config.yaml")])):
        mixers = {type(m).__name__ for m in cli.model.modules() if isinstance(m, Mixer)}
        assert mixers == {"Dense", "ChannelMLP"} and cli.model.densified.head_dim == 4
    best = Forecasting.load_from_checkpoint(folder / "best.ckpt")
    assert any(isinstance(m, Dense) for m in best.modules())


@pytest.mark.parametrize(
    ("options", "kept"),
    [("", True), ("--seed_everything=4 --trainer.accelerator cpu --record true", True), ("--data.horizon 8", False)],
)
def test_options_that_change_no_settings_need_no_second_parse(tmp_path, options, kept, monkeypatch):
    argv = ["--config", "demo", *options.split()]
    assert keeps_settings(argv) == kept
    cli = Train("fit", argv, build=False, runs=tmp_path)
    found = cli._named_settings(cli.settings())
    assert (found == cli.settings()) == kept
    monkeypatch.setattr("seqmix.commands.train.keeps_settings", lambda argv: False)
    assert cli._named_settings({}) == found
