"""Every readable image gets its classes, every other file its line; the exit code says which it was."""

import numpy as np
import pytest
import torch
from PIL import Image

from seqmix.cli import run
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
    assert err.startswith("seqmix: 3 of 9 files in 'images' were left out:\n")
    assert [name for name in ("cut.jpg", "empty.png", "notes.txt") if name in err] == [
        "cut.jpg",
        "empty.png",
        "notes.txt",
    ]
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
    ],
)
def test_refusals(folder, capsys, options, message):
    assert _predict(*options) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("seqmix: ") and message in err


def test_empty_folder(folder, capsys):
    (folder / "nothing").mkdir()
    assert _predict("--images", "nothing") == 1
    assert "'nothing' holds no file" in capsys.readouterr().err
