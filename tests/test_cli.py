"""Every command, called as from the shell but in this process; what it prints, writes and returns."""

import contextlib
import csv
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import seqmix
from seqmix.cli import run
from seqmix.commands._results import print_rows
from seqmix.commands.short_help import EXAMPLES
from seqmix.commands.train import Train
from seqmix.data import Cycles
from seqmix.models import DLinear
from seqmix.tasks import Forecasting

CONFIG = """
# a model with dropout, covariates, and fewer test windows than a batch
seed_everything: 3
model:
  class_path: Forecasting
  init_args:
    model: {class_path: TSM2, init_args: {d_model: 4, n_layers: 1, patch_len: 8, patch_stride: 8, d_state: 2}}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 256, n_channels: 3, n_steps: 600}
trainer: {max_epochs: 2, accelerator: cpu}
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A finished run, with what it printed."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["fit", "--config", "tiny.yaml", "--record", "true"]) == 0
    return folder


@pytest.fixture
def here(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    (run_folder,) = (fitted / "runs" / "tiny").glob("*")
    return run_folder


def _rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_help_and_version(capsys):
    assert run(["--help"]) == run([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in seqmix.cli.COMMANDS)
    # a command without an example cannot show its help
    assert seqmix.cli.COMMANDS.keys() <= EXAMPLES.keys()
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"seqmix {seqmix.__version__}\n"


def test_warnings_are_told_without_the_files_of_packages(monkeypatch, capsys):
    def told(*_):
        for file in (torch.__file__, seqmix.__file__, "mine.py"):
            print(warnings.formatwarning(UserWarning("a\n  b"), UserWarning, file, 3), end="")

    before = warnings.formatwarning
    monkeypatch.setattr("seqmix.commands.info.main", told)
    assert run(["info"]) == 0 and warnings.formatwarning is before
    assert capsys.readouterr().out == "seqmix: a b\nseqmix: a b\nseqmix: mine.py:3: a b\n"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_short_help(command, capsys):
    """An example first, and no option that the command does not have."""
    assert run([command, "--help"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) < 25 and short.splitlines()[2].startswith(f"  seqmix {command} --config ")
    with pytest.raises(SystemExit) as end:
        run([command, "--help", "all"])
    everything = capsys.readouterr().out
    assert end.value.code == 0 and len(everything) > 5 * len(short)
    named = set(re.findall(r"^  --([\w.]+)", short, re.MULTILINE)) - {"model.model"}
    assert named and all(f"--{name}" in everything for name in named)


@pytest.mark.parametrize("command", ["fit", "test", "predict", "sweep", "tune"])
def test_examples_of_the_help_are_accepted(command, capsys, tmp_path, monkeypatch):
    """Data and model are built as each example says, with the first of the values that it varies."""
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        run([command, "--help"])
    lines = re.findall(rf"^  (seqmix {command} .*)", capsys.readouterr().out, re.MULTILINE)
    assert lines
    for line in {EXAMPLES[command], *lines}:
        words = re.sub(r" --(grid|space)| --(seeds|jobs|trials|ckpt_path|out) \S+", "", line).split()[2:]
        # an option and its values: int:16:64:16, or words between commas
        varied = [f"--{word}" for word in words if re.match(r"[\w.]+=", word)]
        argv = [word for word in words if f"--{word}" not in varied]
        Train("fit", argv + [re.sub(r"=(?:(?:int|float|log):)?([^,:]+).*", r"=\1", option) for option in varied])


@pytest.mark.parametrize(
    "argv",
    [["fit", "--model", "Forecasting", "--model.model.help", "DLinear"], ["matrix", "--mixer.help=Pool"]],
)
def test_help_of_a_class_has_the_options_as_they_are_typed(argv, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["seqmix", *argv])
    with pytest.raises(SystemExit):
        run(argv)
    out = capsys.readouterr().out
    options = set(re.findall(r"^  --([\w.]+)", out, re.MULTILINE))
    prefix = "model.model." if argv[0] == "fit" else "mixer."
    assert options and all(option.startswith(prefix) for option in options) and "usage" not in out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fitt", "seqmix: unknown command 'fitt'. Did you mean 'fit'? Run `seqmix --help`.\n"),
        ("xyz", "seqmix: unknown command 'xyz'. Run `seqmix --help`.\n"),
    ],
)
def test_unknown_command(typed, message, capsys):
    assert run([typed]) == 2
    assert capsys.readouterr().err == message


def test_fit_leaves_one_whole_folder(here, fitted):
    assert {p.name for p in here.iterdir()} == {
        *("config.yaml", "env.json", "metrics.csv", "best.ckpt", "last.ckpt", "results.csv")
    }
    assert {p.name for p in fitted.iterdir()} == {"tiny.yaml", "runs", "configs"}
    assert here.name.endswith("-seed3")
    env = json.loads((here / "env.json").read_text())
    assert env["torch"] == torch.__version__ and env["device"] == "cpu" and "commit" in env
    assert [(m["epoch"], m["step"]) for m in _rows(here / "metrics.csv")] == [("1", "2"), ("2", "4")]


def test_fit_results(here, fitted, capsys):
    rows = _rows(here / "results.csv")
    assert [r["model"] for r in rows] == ["TSM2", "SeasonalNaive", "Ridge", "DLinear"]
    assert rows == _rows(fitted / "configs" / "results" / "tiny.csv")
    # 120 test rows and a horizon of 8: every window, the last batch too
    assert {(r["config"], r["seed"], r["windows"], r["context"], r["horizon"]) for r in rows} == {
        ("tiny", "3", "113", "24", "8")
    }
    weights = torch.load(here / "best.ckpt", weights_only=True)["state_dict"]
    assert int(rows[0]["parameters"]) == sum(w.numel() for w in weights.values())
    assert float(rows[0]["seconds"]) > 0
    assert run(["runs", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["steps"], row["metric"], row["test"]) == (4, "mse", float(rows[0]["mse"]))
    assert row["settings"] == rows[0]["settings"] and Path(row["folder"], "config.yaml").exists()
    assert run(["runs"]) == 0
    assert f"mse {row['test']:.4f}  {row['settings'][:6]}" in capsys.readouterr().out


def test_a_model_that_is_a_baseline_too(capsys):
    data = Cycles(24, 8)
    row = {"model": "DLinear", "windows": 113, "mse": 1.0, "mae": 1.0, "parameters": 9, "seed": 0}
    rows = [{"role": "model", **row}, {"role": "baseline", **row}]
    print_rows(rows, Forecasting(DLinear, data.series), data)
    assert re.findall(r"DLinear \S+", capsys.readouterr().out) == ["DLinear (baseline)"]


def test_test_repeats_the_numbers_from_the_saved_config(here, capsys):
    argv = ["--config", str(here / "config.yaml"), "--ckpt_path", "best", "--baselines", "[]"]
    assert run(["test", *argv]) == 0
    # the rows are there already
    assert [row["role"] for row in _rows(here / "results.csv")] == ["model", *["baseline"] * 3]
    out = capsys.readouterr().out
    assert "Cycles: 113 test windows, 24 -> 8 steps, seed 3" in out and "DLinear" not in out

    assert run(["validate", *argv]) == 0
    (scores,) = [m for m in _rows(here / "metrics.csv") if m["epoch"] == "2"]
    assert f"val_mse {float(scores['val_mse']):.4f}" in capsys.readouterr().out


def test_predict_writes_every_step_in_the_units_of_the_data(here):
    assert run(["predict", "--config", "tiny.yaml", "--ckpt_path", "best"]) == 0
    frame = pd.read_csv(here / "predictions.csv")
    assert list(frame) == ["window", "step", "ds", "channel", "y", "yhat"]
    assert len(frame) == 113 * 8 * 3 and frame["step"].min() == 1
    first = _rows(here / "results.csv")[0]
    data = seqmix.data.Cycles(24, 8, 256, n_channels=3, n_steps=600)
    data.setup()
    # 120 test rows after 420 for training and 60 for validation, hours from 2024
    late = pd.to_datetime(frame["ds"]) - pd.to_timedelta(frame["window"] + frame["step"] - 1, "h")
    assert (late == pd.Timestamp("2024-01-01") + pd.Timedelta(480, "h")).all()
    error = (frame["yhat"] - frame["y"]) / data.std.numpy()[frame["channel"]]
    assert (error**2).mean() == pytest.approx(float(first["mse"]), rel=1e-4)


def test_a_model_without_parameters_is_tested_not_trained(here, fitted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["--config", str(fitted / "tiny.yaml"), "--model.model", "SeasonalNaive", "--baselines", "[]"]
    assert run(["fit", *argv]) == 0
    (rows,) = [_rows(p) for p in tmp_path.glob("runs/tiny/*/results.csv")]
    naive = _rows(here / "results.csv")[1]
    assert [r["mse"] for r in rows] == [naive["mse"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--ckpt_path", "last", "--seed_everything", "4"],
            "ckpt_path = 'last': no run with seed 4 and a checkpoint in 'runs/tiny'; "
            "run `seqmix fit` first, or give the path of a checkpoint",
        ),
        (
            [],
            "`seqmix test` needs trained weights; pass --ckpt_path best for the newest run of 'tiny', or the path of a "
            "checkpoint",
        ),
        (["--ckpt_path", "no.ckpt"], "checkpoint 'no.ckpt' not found; give the path of a .ckpt file, best or last"),
        (["--ckpt_path", "tiny.yaml"], "checkpoint 'tiny.yaml' is damaged or no checkpoint; use another one"),
        (
            ["--ckpt_path", "best", "--model.model.d_model", "6"],
            "ckpt_path = 'best': no run with seed 3 in 'runs/tiny' has these settings; the newest has "
            "model.model.d_model=4; give the same, or --config {run}/config.yaml",
        ),
        (["--model.optim.lr", "-1"], "lr must be positive, got -1.0; use for example 5e-4"),
        (
            ["--data.lag", "50"],
            "lag must be between horizon = 8 and context = 24, got 50; use data.lag=8",
        ),
    ],
)
def test_a_users_error_is_one_line_without_traceback(here, options, message, capsys):
    before = sorted(Path().rglob("*"))
    assert run(["test", "--config", "tiny.yaml", *options]) == 1
    assert capsys.readouterr().err.splitlines() == [f"seqmix: {message}".replace("{run}", f"runs/tiny/{here.name}")]
    assert sorted(Path().rglob("*")) == before


def test_a_folder_that_cannot_be_written(here, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert run(["fit", "--config", "tiny.yaml", "--trainer.default_root_dir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"seqmix: '{tmp_path}/runs/tiny' cannot be written: Not a directory; free it, or choose ano")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_training_that_diverges_says_so(here, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", str(fitted / "tiny.yaml"), "--model.optim.lr", "1e30"]) == 1
    said = r"seqmix: training diverged at step \d: .*(nan|inf|finite); lower model.optim.lr, then fit again\n"
    assert re.fullmatch(said, capsys.readouterr().err)
    # nothing was kept, so there is no folder
    assert list(tmp_path.rglob("runs/*/*")) == []


@pytest.mark.parametrize(
    "options",
    [
        ["max_steps", "1"],
        ["max_steps", "3", "check_val_every_n_epoch", "9"],
        ["max_steps", "1", "val_check_interval", "2"],
    ],
)
def test_training_that_ends_before_a_validation_has_one_at_its_end(options, here, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [word if i % 2 else f"--trainer.{word}" for i, word in enumerate(options)]
    argv = ["--config", str(fitted / "tiny.yaml"), *flags, "--trainer.max_epochs", "99", "--baselines", "[]"]
    assert run(["fit", *argv]) == 0
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert int(_rows(metrics)[0]["step"]) <= int(options[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.accelerator", "tpu"], "trainer: "),
        (
            ["--trainer.devices", "0"],
            "trainer: `Trainer(devices=0)` value is not a valid input using cpu accelerator; set it as",
        ),
        (["--trainer.max_time", "1h"], "trainer: `Timer(duration='1h')` is not a valid duration. Expected a string in"),
        (
            ["--trainer.val_check_interval", "5000"],
            "trainer: `val_check_interval` (5000) must be less than or equal to",
        ),
        (
            ["--trainer.val_check_interval", "0"],
            "trainer.val_check_interval = 0 leaves `seqmix fit` nothing to do; raise",
        ),
        (
            ["--trainer.limit_test_batches", "0"],
            "trainer.limit_test_batches = 0 leaves `seqmix fit` nothing to do; raise",
        ),
        (
            ["--trainer.accumulate_grad_batches", "0"],
            "trainer.accumulate_grad_batches must be at least 1, got 0; leave",
        ),
        (
            ["--trainer.check_val_every_n_epoch", "3"],
            "no validation is due in 2 epochs: trainer.check_val_every_n_epoch",
        ),
        (
            ["--seed_everything", "true"],
            "seed_everything must be between 0 and 4294967295, got True; use for example 0",
        ),
        (["--seed_everything", "-1"], "seed_everything must be between 0 and 4294967295, got -1; use for example 0"),
        (["--record", "true"], "--record writes to 'configs/results/tiny.csv', which cannot be written"),
    ],
)
def test_what_this_machine_cannot_do_is_said_before_training(options, message, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").write_text("a file")
    assert run(["fit", "--config", str(fitted / "tiny.yaml"), *options]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"seqmix: {message}") and said.err.count("\n") <= 2 and "epoch" not in said.out
    assert [p.name for p in tmp_path.iterdir()] == ["configs"]


def test_the_printed_loss_is_that_of_a_batch(fitted, tmp_path, monkeypatch):
    """However many batches share a step."""
    monkeypatch.chdir(tmp_path)
    losses = []
    for shared in ("1", "2"):
        argv = ["--config", str(fitted / "tiny.yaml"), "--trainer.max_epochs", "1", "--model.optim.lr", "1e-9"]
        argv += ["--trainer.accumulate_grad_batches", shared, "--name", shared, "--test", "false"]
        assert run(["fit", *argv, "--model.model.dropout", "0", "--model.model.head_dropout", "0"]) == 0
        losses += [float(row["train_loss"]) for row in _rows(next(tmp_path.glob(f"runs/{shared}/*/metrics.csv")))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_damaged_checkpoints(here, fitted, tmp_path, capsys):
    """A flipped bit, a part, weights that are not finite, and files of something else: one line each."""
    whole = (here / "best.ckpt").read_bytes()
    content = torch.load(here / "best.ckpt", weights_only=True)
    name, weight = next(iter(content["state_dict"].items()))
    # inside the weights: between the records of the file there is padding
    bit = whole.index(weight.numpy().tobytes())
    files = {
        "flipped": whole[:bit] + bytes([whole[bit] ^ 1]) + whole[bit + 1 :],
        "part": whole[: len(whole) // 2],
        "nothing": {},
        "list": [1],
        "weights": {"state_dict": [torch.ones(1)]},
        "nan": {**content, "state_dict": {**content["state_dict"], name: content["state_dict"][name] * float("nan")}},
    }
    for kind, made in files.items():
        path = tmp_path / f"{kind}.ckpt"
        path.write_bytes(made) if isinstance(made, bytes) else torch.save(made, path)
        assert run(["test", "--config", "tiny.yaml", "--ckpt_path", str(path)]) == 1, kind
        said = capsys.readouterr().err
        what = f"has weights that are not finite ({name})" if kind == "nan" else "is damaged or no checkpoint"
        assert said.startswith(f"seqmix: checkpoint '{path}' {what}") and said.count("\n") == 1, kind


def test_two_runs_in_one_second_do_not_meet(tmp_path, monkeypatch):
    from seqmix.tasks.folders import new_folder, run_folders

    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    (tmp_path / "a").mkdir()
    made = [new_folder(tmp_path / "a", seed) for seed in (10, *[1] * 10)]
    assert [p.name for p in made[:3]] == [f"20260101-000000-seed{k}" for k in ("10", "1", "1-2")]
    for folder in made:
        (folder / "last.ckpt").touch()
    # the tenth is newer than the second
    assert run_folders(tmp_path / "a", 1) == made[1:]
    assert run_folders(tmp_path / "a", 2) == []


def test_list(capsys, here):
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    # the first table wins where a word begins a line in several: that of the mixers
    lines = {line.split()[0]: line.split() for line in reversed(out.splitlines()) if line.strip()}
    columns = lines["name"]
    mamba, conv = (dict(zip(columns, lines[name], strict=True)) for name in ("Mamba", "SepConv"))
    assert (mamba["paper"], mamba["cost"]) == ("arXiv:2312.00752", "L")
    assert [mamba[c] for c in ("causal", "matrix", "step")] == ["yes", "yes", "yes"]
    assert [conv[c] for c in ("causal", "matrix", "step")] == ["-", "-", "-"]
    assert {"TSM2", "DLinear", "Benchmark", "Cycles", "WideCSV"} <= lines.keys()
    assert not {"ForecastData", "Windows"} & lines.keys()
    assert run(["list", "models"]) == 0
    assert "Mamba" not in capsys.readouterr().out
    assert run(["list", "--format", "csv"]) == 1
    assert "--format csv is one table; name a kind, for example `seqmix list mixers`" in capsys.readouterr().err
    assert run(["list", "models", "--format", "csv"]) == 0
    rows = {row["name"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows["TSM2"] == {"name": "TSM2", "paper": "arXiv:2403.19888", "covariates": "True"}
    assert run(["list", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"mixers", "images", "datasets"} < found.keys() and {row["name"]: row for row in found["models"]} == {
        name: {**row, "covariates": row["covariates"] == "True"} for name, row in rows.items()
    }


def test_info(capsys):
    assert run(["info"]) == 0
    out = capsys.readouterr().out
    assert f"torch         {torch.__version__}\n" in out and "selective_scan" in out


def test_matrix(tmp_path, capsys):
    out = tmp_path / "new" / "pool.png"
    assert run(["matrix", "--mixer", "Pool", "--length", "9", "--d_model", "4", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert run(["matrix", "--mixer", "SepConv", "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("seqmix: SepConv has no matrix(); `seqmix list mixers` shows")


def test_bench(tmp_path, capsys):
    argv = [
        "--mixer",
        "Pool",
        "--lengths",
        "[4,8]",
        "--d_model",
        "8",
        "--repeats",
        "1",
        "--out",
        str(tmp_path / "b.csv"),
    ]
    assert run(["bench", *argv]) == 0
    rows = _rows(tmp_path / "b.csv")
    assert [(r["mixer"], r["length"]) for r in rows] == [
        ("Pool", "4"),
        ("Attention", "4"),
        ("Pool", "8"),
        ("Attention", "8"),
    ]
    assert all(float(r["forward us/token"]) > 0 for r in rows)
    # attention keeps at least its projected input: 3 times 8 floats a token
    assert float(rows[3]["kept MiB"]) * 2**20 >= 3 * 8 * 8 * 4
    assert "cpu, float32, width 8, batch 1, 1 thread(s)" in capsys.readouterr().out


def test_classes_in_the_current_folder_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("my_mixers.py").write_text("from seqmix.mixers import Pool\n\n\nclass Mine(Pool):\n    pass\n")
    assert run(["matrix", "--mixer", "my_mixers.Mine", "--length", "5", "--out", "mine.png"]) == 0


def test_the_saved_config_is_the_whole_experiment(here):
    config = yaml.safe_load((here / "config.yaml").read_text())
    assert config["name"] == "tiny" and config["seed_everything"] == 3
    assert config["model"]["init_args"]["model"]["init_args"]["norm"] == "joint"
    assert not {"ckpt_path", "record", "test", "config"} & config.keys()


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_traceback():
    words = [sys.executable, "-m", "seqmix", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # nobody reads when it begins to write
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_finds_no_room_is_said():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "seqmix", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "seqmix: a file cannot be written: the disk is full; make room, or choose another place\n"
