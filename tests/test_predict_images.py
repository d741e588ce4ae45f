"""Every readable image gets its classes, every other file its line; the exit code says which it was."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_data_images import fill_folder

from seqmix.cli import run
from seqmix.data import ImageFolder, image_input
from seqmix.errors import ConfigError
from seqmix.tasks import ImageClassification
from seqmix.vision import create_model

CLASSES = ["green", "red", "gray"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Weights of a model that tells colors, and images of every kind, three files that are none among them."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(create_model("poolformer_s12", num_classes=3).state_dict(), "weights.pth")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (tmp_path / "images" / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    rgb = Image.fromarray(noise)
    for name in ("rgb.jpg", "gray.png", "rgba.png", "cmyk.tif", "deep.png", "more/small.gif"):
        image = {
            "gray.png": rgb.convert("L"),
            "rgba.png": rgb.convert("RGBA"),
            "cmyk.tif": rgb.convert("CMYK"),
            "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
        }.get(name, rgb)
        image.save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "cut.jpg").write_bytes((tmp_path / "images" / "rgb.jpg").read_bytes()[:900])
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    (tmp_path / "images" / ".hidden").write_text("")
    return tmp_path


def _predict(*options):
    fixed = ["--model", "poolformer_s12", "--weights", "weights.pth", "--num_classes", "3"]
    return run(["predict", *fixed, *options])


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_the_good_are_named_and_the_bad_listed(folder, capsys, batch_size):
    assert _predict("--images", "images", "--classes", "classes.txt", "--top", "2", "--batch_size", batch_size) == 1
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("poolformer_s12: 6 images, 3 classes\n")
    assert [line[0] for line in lines[2:]] == [
        "cmyk.tif",
        "deep.png",
        "gray.png",
        "more/small.gif",
        "rgb.jpg",
        "rgba.png",
    ]
    for line in lines[2:]:
        assert line[1] in CLASSES and line[3] in CLASSES and line[1] != line[3]
        assert float(line[2].strip("%")) >= float(line[4].strip("%"))
    note, *listed = err.splitlines()
    assert note == "1 files in 'images' are no images: .txt (1)"
    assert listed[0] == "seqmix: 2 of 8 images in 'images' were left out; mend or remove them:"
    assert "cut.jpg" in listed[1] and "empty.png" in listed[2] and len(listed) == 3
    assert ".hidden" not in out + err


def test_all_good(folder, capsys):
    """One file, and no names: the shares of all three classes add up, and are those of the model."""
    assert _predict("--images=images/rgb.jpg", "--top", "9") == 0
    cells = capsys.readouterr().out.splitlines()[-1].split()
    shares = {int(k): float(share.strip("%")) for k, share in zip(cells[1::2], cells[2::2], strict=True)}
    assert shares.keys() == {0, 1, 2} and abs(sum(shares.values()) - 100) < 0.3
    model = create_model("poolformer_s12", num_classes=3, weights="weights.pth").eval()
    # the middle of the image by hand: 224 of 248 pixels of the shorter side
    image = Image.open("images/rgb.jpg").resize((347, 248), Image.Resampling.BICUBIC).crop((62, 12, 286, 236))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        want = 100 * model(x[None]).softmax(-1)[0]
    assert [shares[k] for k in range(3)] == pytest.approx(want.tolist(), abs=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "nowhere"], "'nowhere' does not exist; give --images a folder of images, or one image"),
        (["--images", "images", "--top", "0"], "top = 0 and batch_size = 16 must be at least 1; use 5 and 16"),
        (
            ["--images", "images", "--classes", "images/notes.txt"],
            "names 1 classes, the model has 3; give one name a line",
        ),
        (["--images", "images", "--classes", "images/rgb.jpg"], "file of classes 'images/rgb.jpg' cannot be read ("),
        (["--images", "images", "--weights", "absent.pth"], "no weights at 'absent.pth'; give a file that exists"),
        (
            ["--images", "images", "--model", "poolformer_12"],
            "no image model 'poolformer_12'; did you mean poolformer_s12",
        ),
        (["--images", "images", "--out", "classes.docx"], "--out 'classes.docx' ends in '.docx'; use one of .csv, "),
        (["--images", "images", "--out", "images"], "--out 'images' is a folder; give a file, for example"),
        (["--images", "images", "--ckpt_path", "best"], "leave one of the two out"),
    ],
)
def test_refusals(folder, capsys, options, message):
    assert _predict(*options) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("seqmix: ") and message in err


def test_empty_folder(folder, capsys):
    (folder / "nothing").mkdir()
    assert _predict("--images", "nothing") == 1
    assert "'nothing' holds no image" in capsys.readouterr().err
    (folder / "nothing" / "notes.txt").write_text("no image")
    assert _predict("--images", "nothing") == 1
    assert run(["predict", "--images", "images"]) == 1
    assert "pass --config and --ckpt_path of a trained, or --model and --weights" in capsys.readouterr().err


def test_trained_model(folder, capsys):
    """Names and preparation of the images come from the checkpoint: the training data may be gone."""
    counts = {"cat": 3, "dog": 2, "owl": 2}
    fill_folder(folder / "pets", dict.fromkeys(("train", "val"), counts))
    tiny = "{class_path: MetaFormer, init_args: {depths: [1], dims: [8], mixers: [Pool2d]}}"
    argv = ["--model", "ImageClassification", "--model.model", tiny, "--data", "ImageFolder", "--data.path", "pets"]
    argv += ["--data.n_workers", "0", "--data.root", str(folder), "--data.img_size", "20", "--data.n_channels", "1"]
    argv += ["--name", "pets", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--data.crop_pct", "0.5"]
    assert run(["fit", *argv, "--test", "false"]) == 0
    (path,) = (folder / "runs" / "pets").iterdir()
    shutil.rmtree(folder / "pets")
    # a stray text file alone is no failure
    for name in ("cut.jpg", "empty.png"):
        (folder / "images" / name).unlink()
    capsys.readouterr()
    saved = ["--config", str(path / "config.yaml")]
    assert run(["predict", "--images", "images", *saved, "--ckpt_path", "best", "--out", "new/classes.csv"]) == 0
    out, err = capsys.readouterr()
    assert "predictions: new/classes.csv" in out and err == "1 files in 'images' are no images: .txt (1)\n"
    table = pd.read_csv("new/classes.csv")
    assert list(table.columns) == ["image"] + [f"{part}_{i}" for i in (1, 2, 3) for part in ("class", "probability")]
    assert len(table) == 6 and set(table["class_1"]) <= counts.keys()
    task = ImageClassification.load_from_checkpoint(path / "best.ckpt").eval()
    with torch.no_grad():
        share = task.model(image_input("images/rgb.jpg", task.input_cfg)[None]).softmax(-1)[0]
    row = table.set_index("image").loc["rgb.jpg"]
    assert row["class_1"] == task.class_names[share.argmax()] and row["probability_1"] == pytest.approx(
        float(share.max())
    )
    # the config beside a checkpoint is taken where none is given
    assert run(["predict", "--images", "images/rgb.jpg", "--ckpt_path", str(path / "last.ckpt"), "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith("MetaFormer (Pool2d): 1 images, 3 classes\n")
    assert run(["predict", "--images", "images", "--ckpt_path", "best"]) == 1
    assert "ckpt_path = 'best' has no config.yaml beside it; pass --config" in capsys.readouterr().err


@pytest.mark.parametrize("image", ["rgb.jpg", "deep.png", "rgba.png"])
def test_input_of_a_model(folder, image):
    """``image_input`` is what loaders and normalization make of the same file."""
    cfg = create_model("caformer_s18", num_classes=0).default_cfg
    path = folder / "images" / image
    x = image_input(path, cfg)
    assert x.shape == (3, 224, 224) and torch.equal(x, image_input(Image.open(path), cfg))
    (folder / "one" / "train" / "a").mkdir(parents=True)
    (folder / "one" / "train" / "b").mkdir()
    (folder / "one" / "val" / "a").mkdir(parents=True)
    for place in ("train/a", "train/b", "val/a"):
        shutil.copy(path, folder / "one" / place)
    data = ImageFolder("one", root=str(folder), crop_pct=cfg["crop_pct"], n_workers=0)
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    torch.testing.assert_close(batch["images"][0], x)
    with pytest.raises(ConfigError, match="images have 1 or 3 channels, the model takes 4"):
        image_input(path, {**cfg, "input_size": (4, 8, 8)})
