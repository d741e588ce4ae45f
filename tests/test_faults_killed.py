"""Commands that are killed (kill -9) and started again give what they give undisturbed; nothing is lost or doubled.

They are killed just before every fourth call that changes the file system, before the first renaming to each name, and
at random moments. Fast twins, in one process, are in ``test_resume.py``, ``test_forecaster_files.py``,
``test_sweep.py`` and ``test_tune.py``.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from seqmix.tasks.lock import locked
from seqmix.tasks.rows import read_rows

pytestmark = pytest.mark.slow

FORECASTING = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.3}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 3, n_steps: 400}
trainer: {max_epochs: 2, val_check_interval: 0.5, accelerator: cpu}
"""
LANGUAGE = """
model:
  class_path: CausalLM
  init_args:
    model: {class_path: TokenModel, init_args: {mixer: MinGRU, d_model: 8, n_layers: 1}}
data:
  class_path: TextFiles
  init_args: {train: text.txt, max_len: 16, batch_size: 8, cache: cache}
trainer: {max_epochs: 2, accelerator: cpu}
"""
IMAGES = """
model:
  class_path: ImageClassification
  init_args:
    model: {class_path: MetaFormer, init_args: {depths: [1], dims: [8], mixers: [Pool2d]}}
data:
  class_path: ImageFolder
  init_args: {path: pets, root: ., img_size: 16, batch_size: 4, n_workers: 0, augment: {class_path: Augmentation}}
trainer: {max_epochs: 2, val_check_interval: 2, accelerator: cpu}
"""
FIT = ["fit", "--config", "tiny.yaml", "--resume", "auto"]
CLI = "seqmix.cli:run"
# what a command says when it cannot write
REFUSALS = ("cannot be written", "is not a folder to write to", "cannot download", "runs failed", "no room")
# of a result: what depends on the machine and the moment
_OF_THE_MOMENT = ("seconds", "run", "commit", "started", "ended", "duration")


class Scenario(NamedTuple):
    """A command, the folder that it works in, and what it leaves."""

    prepare: Callable[[Path], None]
    args: list[Any]
    outcome: Callable[[Path], Any]
    call: str = CLI


def _config(text, folder):
    (folder / "tiny.yaml").write_text(text + "baselines: []\n" * ("Cycles" in text))
    (folder / "text.txt").write_bytes(b"".join(b"line %d of the text\n" % i for i in range(200)))
    if "pets" in text:
        for part, n in (("train", 10), ("val", 3)):
            for color, name in enumerate(("cat", "dog")):
                (folder / "pets" / part / name).mkdir(parents=True)
                for i in range(n):
                    image = Image.new("RGB", (20, 20), (90 * color, 9 * i, 255))
                    image.save(folder / "pets" / part / name / f"{i}.png")


def _table(folder):
    times = np.tile(pd.date_range("2024", periods=80, freq="h"), 2)
    frame = pd.DataFrame({"unique_id": ["a"] * 80 + ["b"] * 80, "ds": times, "y": np.sin(np.arange(160.0))})
    frame.to_csv(folder / "long.csv", index=False)
    wide = pd.DataFrame({"time": times[:80], "u": np.sin(np.arange(80.0)), "v": np.cos(np.arange(80.0))})
    wide.loc[40:42, "u"] = np.nan
    wide.to_csv(folder / "sensors.csv", index=False)
    rows = [(i, t, np.sin(t * (1 + i % 2)), "fast" if i % 2 else "slow") for i in range(12) for t in range(9)]
    pd.DataFrame(rows, columns=["id", "t", "x", "label"]).to_csv(folder / "waves.csv", index=False)


def _rows(file):
    rows = [{name: value for name, value in row.items() if name not in _OF_THE_MOMENT} for row in read_rows(file)]
    return sorted(map(json.dumps, rows))


def _trained(folder):
    """Weights, metrics and results of the run that was finished; one that was killed at its start has none."""
    (run,) = (file.parent for file in folder.glob("runs/tiny/*/results.csv"))
    found = {}
    for name in ("best", "last"):
        content = torch.load(run / f"{name}.ckpt", weights_only=True)
        found[name] = {key: value.numpy().tobytes() for key, value in content["state_dict"].items()}
    return found, _rows(run / "metrics.csv"), _rows(run / "results.csv")


def _files(folder, *names):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _saved(folder, *names, kept):
    return _files(folder, *names), {k: v.tolist() for k, v in load_file(folder / kept / "weights.safetensors").items()}


def _swept(folder):
    return _rows(folder / "runs/tiny/sweep.csv")


def _tuned(folder):
    best = (folder / "runs/tiny/tune/best.yaml").read_text().splitlines()
    # the folder of a run has the name of its moment
    return _rows(folder / "runs/tiny/tune/trials.csv"), [line for line in best if not line.startswith("# Weights: ")]


def _all_files(folder, where):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (folder / where).rglob("*")
        if file.is_file()
    }


def _pages(folder):
    (folder / "benchmarks").mkdir()
    for file in (folder / "README.md", folder / "benchmarks/README.md"):
        file.write_text("before\n<!-- counts -->\n<!-- /counts -->\nafter\n")


def _command(line, outcome):
    return Scenario(_table, [[*line.split(), "--max_steps", "4", "--device", "cpu"]], outcome)


SCENARIOS = {
    "fit": Scenario(partial(_config, FORECASTING), [FIT], _trained),
    "fit language": Scenario(partial(_config, LANGUAGE), [FIT], _trained),
    "fit images": Scenario(partial(_config, IMAGES), [FIT], _trained),
    "sweep": Scenario(
        partial(_config, FORECASTING),
        [["sweep", "--config", "tiny.yaml", "--grid", "model.model.mixer=Pool,FNet", "--seeds", "0,1"]],
        _swept,
    ),
    "tune": Scenario(
        partial(_config, FORECASTING),
        [["tune", "--config", "tiny.yaml", "--space", "model.optim.lr=log:1e-4:1e-1", "--trials", "3"]],
        _tuned,
    ),
    "forecast": _command(
        "forecast --data long.csv --horizon 6 --model DLinear --out out/f.csv --save kept --plot f.png",
        partial(_saved, kept="kept"),
    ),
    "impute": _command(
        "impute --data sensors.csv --out filled.csv --save kept --plot f.png",
        lambda folder: _saved(folder, "filled.csv", kept="kept"),
    ),
    "detect": _command(
        "detect --data sensors.csv --out scores.csv --save kept --plot f.png",
        lambda folder: _saved(folder, "scores.csv", kept="kept"),
    ),
    "classify": _command(
        "classify --data waves.csv --out labels.csv --save kept --plot f.png",
        lambda folder: _saved(folder, "labels.csv", kept="kept"),
    ),
    "documentation": Scenario(
        _pages,
        [["list", "--write"]],
        lambda folder: _files(folder, "README.md", "benchmarks/README.md"),
    ),
    "download": Scenario(
        lambda folder: None, [3_000_000], lambda folder: _all_files(folder, "made"), "forked:download"
    ),
    "ListOps": Scenario(lambda folder: None, ["ListOps"], lambda folder: _all_files(folder, "made"), "forked:generate"),
    "Pathfinder": Scenario(
        lambda folder: None, ["Pathfinder"], lambda folder: _all_files(folder, "made"), "forked:generate"
    ),
}


class Forks:
    """The server of ``forked.py``."""

    def __init__(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("forked.py"),
                "seqmix.commands.train",
                "seqmix.commands.forecast",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, scenario, folder, **fault):
        request = {"folder": str(folder), "call": scenario.call, "args": scenario.args, **fault}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forks():
    found = Forks()
    # closes the pipes, which ends the server
    with found.process:
        yield found


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    """What a scenario leaves undisturbed, its calls of the file system, and its seconds; each is run once."""
    known = {}

    def of(name):
        if name not in known:
            folder, scenario = tmp_path_factory.mktemp("whole"), SCENARIOS[name]
            scenario.prepare(folder)
            done = forks.run(scenario, folder)
            assert done["code"] == 0, done["err"]
            known[name] = scenario.outcome(folder), done["calls"], done["seconds"]
        return known[name]

    return of


def _check(name, forks, folder, undisturbed, **fault):
    """Kill, then start again until the command ends."""
    scenario = SCENARIOS[name]
    scenario.prepare(folder)
    killed = forks.run(scenario, folder, **fault)
    again = forks.run(scenario, folder)
    assert again["code"] == 0, again["err"]
    want, _, _ = undisturbed(name)
    assert scenario.outcome(folder) == want
    # a run that was killed after its first best checkpoint, and before its first last one, keeps that
    halves = [best.parent for best in folder.glob("runs/*/*/best.ckpt") if not best.with_name("last.ckpt").exists()]
    # a lock whose process was killed is free, and its file is left where nothing took it again
    for lock in folder.rglob("*.lock"):
        with locked(lock, wait=False):
            pass
    names = [file for file in folder.rglob("*") if ".part" in file.name]
    left = [str(file.relative_to(folder)) for file in names if file.parent not in halves]
    assert not left
    return killed["code"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_a_call(name, forks, undisturbed, tmp_path):
    _, calls, _ = undisturbed(name)
    places = {calls.index(call) + 1 for call in calls if call.startswith("os.rename")}
    for at in sorted(places | {*range(random.Random(name).randint(1, 4), len(calls) + 1, 4)}):
        (folder := tmp_path / str(at)).mkdir()
        assert _check(name, forks, folder, undisturbed, fault="kill", at=at) == -9, calls[at - 1]
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_a_random_moment(name, forks, undisturbed, tmp_path):
    _, _, seconds = undisturbed(name)
    draw = random.Random(0)
    for i in range(3):
        (folder := tmp_path / str(i)).mkdir()
        _check(name, forks, folder, undisturbed, signal="SIGKILL", after=draw.uniform(0.1, 0.9) * seconds)


@pytest.mark.parametrize("fault", ["ENOSPC", "EROFS", "size"])
@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if name not in ("fit language", "fit images", "Pathfinder")]
)
def test_a_disk_that_refuses(name, fault, forks, undisturbed, tmp_path):
    """Two lines and exit code 1, whenever it happens; with room again the command ends as if nothing had been."""
    scenario = SCENARIOS[name]
    want, calls, _ = undisturbed(name)
    draw = random.Random(name + fault)
    places = [at for at, call in enumerate(calls, 1) if not call.startswith("os.remove")]
    for at in draw.sample(places, min(4, len(places))) if fault != "size" else [1]:
        (folder := tmp_path / str(at)).mkdir()
        scenario.prepare(folder)
        done = forks.run(scenario, folder, **({"limit": 2000} if fault == "size" else {"fault": fault, "at": at}))
        if done["code"]:
            *_, said = [line for line in done["err"].splitlines() if not line.startswith("  ")]
            assert any(word in said for word in REFUSALS), done["err"]
            assert "Traceback" not in done["err"] or scenario.call != CLI
            assert done["code"] == 1
        assert not [file for file in folder.rglob("*") if ".part" in file.name]
        again = forks.run(scenario, folder)
        assert again["code"] == 0, again["err"]
        assert scenario.outcome(folder) == want
        shutil.rmtree(folder)
