"""A config, the file beside a checkpoint and the current folder run no code: each attack would leave a canary."""

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from seqmix.cli import run

ROOT = Path(__file__).parents[1]
CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model: {class_path: MixerForecaster, init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 8}}
data: {class_path: Cycles, init_args: {context: 24, horizon: 8, n_steps: 300}}
baselines: []
trainer: {max_epochs: 1, accelerator: cpu, limit_train_batches: 1}
"""
CODE = "import pathlib; pathlib.Path('canary').touch()"
CALLS = {
    "os.system": {"command": "touch canary"},
    "torch.os.system": {"command": "touch canary"},
    "subprocess.Popen": {"args": ["touch", "canary"]},
    "builtins.eval": {"source": "open('canary', 'w')"},
    "builtins.exec": {"source": CODE},
    "runpy.run_path": {"path_name": "evil.py"},
    "torch.hub.load": {"repo_or_dir": ".", "model": "evil", "source": "local"},
    "torch.utils.cpp_extension.load": {"name": "x", "sources": ["x.cpp"]},
    "pathlib.Path.touch": {"self": "canary"},
    "seqmix.cli.run": {"argv": ["matrix", "--mixer", "evil.Evil"]},
    "evil.Evil": {},
    "evil.function": {"d_model": 4},
}
PLACES = {
    "task": ("model",),
    "model": ("model", "init_args", "model"),
    "mixer": ("model", "init_args", "model", "init_args", "mixer"),
    "channel mixer": ("model", "init_args", "model", "init_args", "channel_mixer"),
    "layers": ("model", "init_args", "model", "init_args", "layers", 0),
    "loss": ("model", "init_args", "loss"),
    "data": ("data",),
    "baseline": ("baselines", 0),
    "logger": ("trainer", "logger"),
    "callback": ("trainer", "callbacks", 0),
    "function of a callback": ("trainer", "callbacks", 0, "init_args", "on_fit_start"),
    "profiler": ("trainer", "profiler"),
    "strategy": ("trainer", "strategy"),
    "plugin": ("trainer", "plugins", 0),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # a file beside the config, of its name
    Path("evil.py").write_text(f"{CODE}\n\nclass Evil:\n    pass\n\ndef function(d_model, max_len=None):\n    pass\n")
    Path("hubconf.py").write_text(f"{CODE}\n\ndef evil():\n    pass\n")


def _put(config, place, value):
    """The config with ``value`` at ``place``, a number being an index of a list of one."""
    for key, following in zip(place, (*place[1:], None), strict=True):
        if following is None:
            config[key] = value
        elif not isinstance(config[key] if isinstance(key, int) else config.get(key), dict):
            config[key] = [None] if isinstance(following, int) else {"class_path": "LambdaCallback", "init_args": {}}
        config = config[key]


def _run(argv):
    try:
        return run(argv)
    except SystemExit as e:
        return e.code


# every attack on one option, and two of them on every option
ATTACKS = [*((path, "mixer") for path in CALLS), *((p, place) for p in ("os.system", "evil.Evil") for place in PLACES)]


@pytest.mark.parametrize(("path", "place"), ATTACKS)
def test_a_config_calls_nothing_but_its_classes(path, place, capsys):
    config = yaml.safe_load(CONFIG)
    _put(config, PLACES[place], {"class_path": path, "init_args": CALLS[path]})
    Path("evil.yaml").write_text(yaml.safe_dump(config))
    assert _run(["fit", "--config", "evil.yaml"]) == 2
    assert not Path("canary").exists() and "evil" not in sys.modules
    said = capsys.readouterr().err
    if place == "loss":
        assert said.startswith("seqmix: model.loss should be 'mse' or ")
    else:
        first, second = said.splitlines()
        assert first.startswith(f"seqmix: '{path}' for ")
        assert ("--trust evil" in second) == path.startswith("evil")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model.model.mixer", "os.system"),
        ("model.model.mixer", "{class_path: seqmix.data.files.download, init_args: {d_model: 4}}"),
        ("model.model.mixer", "[evil.function]"),
        ("data", "subprocess.Popen"),
        ("config", "evil.yaml"),
        ("name", "evil.Evil"),
        ("trust", "os"),
        ("trust", "a-b"),
    ],
)
def test_a_command_line_names_modules_by_their_classes(option, value, capsys):
    config = yaml.safe_load(CONFIG)
    if option in ("config", "name"):
        _put(config, PLACES["mixer"], "evil.Evil")
    Path("evil.yaml").write_text(yaml.safe_dump(config))
    assert _run(["fit", "--config", "evil.yaml", f"--{option}", value]) in (1, 2)
    assert not Path("canary").exists() and "evil" not in sys.modules
    assert len(capsys.readouterr().err.splitlines()) <= 2


@pytest.mark.parametrize("named", [["--trust", "own"], ["--model.model.mixer", "own.Mine"]])
def test_the_user_names_an_own_module(named, monkeypatch):
    Path("own.py").write_text("from seqmix.mixers import Pool\n\n\nclass Mine(Pool):\n    pass\n")
    config = yaml.safe_load(CONFIG)
    _put(config, PLACES["mixer"], "own.Mine")
    Path("own.yaml").write_text(yaml.safe_dump(config))
    always = ["fit", "--config", "own.yaml", "--trainer.fast_dev_run", "true"]
    assert _run(always) == 2
    assert _run([*always, *named]) == 0
    # trust ends with the command
    assert _run(always) == 2


class _Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.mark.parametrize("command", ["test", "validate", "predict", "generate", "fit"])
def test_a_checkpoint_runs_nothing(command):
    Path("config.yaml").write_text(CONFIG)
    torch.save({"state_dict": {}, "evil": _Evil()}, "evil.ckpt")
    config = [] if command == "generate" else ["--config", "config.yaml"]
    with suppress(pickle.UnpicklingError):
        _run([command, *config, "--ckpt_path", "evil.ckpt"])
    assert not Path("canary").exists()


# what Python needs itself before `-m` finds the package is not in our hands
@pytest.mark.parametrize(
    ("start", "names"),
    [(["../seqmix_script.py"], sys.stdlib_module_names), (["-m", "seqmix"], ("csv", "difflib", "json", "typing"))],
)
def test_the_current_folder_stands_for_no_module_of_python(start, names, tmp_path, monkeypatch):
    (tmp_path / "seqmix_script.py").write_text("from seqmix.cli import main\n\nmain()\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in names:
        Path(f"{name}.py").write_text(CODE)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *start, "list", "mixers"], env=env, check=True, capture_output=True)
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/b", ""])
def test_a_run_stays_in_its_folder(name, capsys):
    Path("config.yaml").write_text(CONFIG)
    before = sorted(Path().rglob("*"))
    assert _run(["fit", "--config", "config.yaml", "--name", name]) == 1
    assert capsys.readouterr().err.startswith(f"seqmix: name = {name!r} should be the name of one folder in runs/")
    assert sorted(Path().rglob("*")) == before
