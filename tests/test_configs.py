"""Every config is a record: it says where it comes from and how it is run, and it does run."""

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image
from stand_ins import stand_in

from seqmix.commands.configs import with_paths
from seqmix.commands.train import Train

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs"
CONFIGS = [*sorted(FOLDER.glob("*.yaml")), *sorted(FOLDER.glob("recipes/*.yaml")), *sorted(FOLDER.glob("study/*.yaml"))]


def test_a_config_without_results_is_a_recipe():
    run = {path.stem for path in (FOLDER / "results").glob("*.csv")}
    assert run and {path.stem for path in CONFIGS if path.parent == FOLDER} == run


@pytest.mark.parametrize(
    "name", ["demo", "demo.yaml", "configs/demo.yaml", "recipes/recall_copying", "recall_copying.yaml"]
)
def test_configs_come_with_the_package(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for argv in (["--config", name], [f"--config={name}"]):
        (option, path) = with_paths([*argv, "--name", "x"])[:2]
        assert option == "--config" and Path(path).is_file() and Path(path).stem in name
    # a file of one's own has its own name, a folder does not
    Path("demo").mkdir()
    assert with_paths(["--config", "demo"]) != ["--config", "demo"]
    Path("demo").rmdir()
    Path("demo").touch()
    assert with_paths(["--config", "demo"]) == ["--config", "demo"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_header(path):
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines[: next(i for i, s in enumerate(lines) if not s.startswith("#"))])
    assert "Source: " in header
    assert f"# seqmix fit --config {path.relative_to(ROOT)}" in header
    assert not re.findall(r"<[^>]*>", header), "a placeholder"


# half a minute of convolutions and scans
SLOW = ("hydra_vit_base_imagenet", "vim2_tiny_imagenet")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in CONFIGS]
)
def test_one_batch_runs(path, monkeypatch, tmp_path, tmp_path_factory, capsys):
    """On data of the same shape where the data set would have to be read."""
    monkeypatch.chdir(tmp_path)
    # layers are alike, and windows of a quarter are as good: a patch may be as long as the window
    text = re.sub(r"n_layers: \d+", "n_layers: 1", path.read_text())
    config = yaml.safe_load(re.sub(r"(context|patch_len|patch_stride): 512\b", r"\1: 128", text))
    # in the file: a command line that changes settings has it parsed twice
    few = _image_folder(tmp_path_factory.mktemp("images")) if path.stem.endswith("_imagenet") else {"batch_size": 4}
    config["data"]["init_args"] |= few
    config["trainer"] = config.get("trainer", {}) | {"fast_dev_run": True}
    smaller = tmp_path_factory.mktemp("configs") / path.name
    smaller.write_text(yaml.safe_dump(config))
    cli = Train("fit", ["--config", str(smaller), "--trainer.accelerator", "cpu"])
    data = cli.datamodule
    stand_in(data, monkeypatch)
    cli.fit()
    facts = cli.model.facts_of(data)
    sizes = [f"{v:,}" if isinstance(v, int) else f"{v}" for v in facts.values()]
    if facts.get("n_classes") == 1:
        # a regression
        sizes[list(facts).index("n_classes")] = "scores"
    title = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{data.name}: "))
    assert all(size in title for size in sizes)
    # a closed form takes no step
    closed = getattr(getattr(cli.model, "model", None), "closed_form", False)
    assert cli.trainer.global_step == int(not closed)
    assert list(tmp_path.iterdir()) == []


def _image_folder(folder):
    """A few images under the path of the configs, and the options of the data that make them enough."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / "imagenet" / part / name).mkdir(parents=True)
            for i in range(2):
                Image.effect_noise((80, 70), 50).save(folder / "imagenet" / part / name / f"{i}.png")
    return {"root": str(folder), "img_size": 64, "batch_size": 2, "n_workers": 0}
