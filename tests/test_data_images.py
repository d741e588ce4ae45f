"""Images: files of any kind, crops by hand, splits that keep the test images apart, mixtures that add up."""

import multiprocessing
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from seqmix.data.files import data_folder
from seqmix.data.images.augment import Augmentation, erase, finish, paste
from seqmix.data.images.fashion import FashionMNIST
from seqmix.data.images.folders import ImageFolder
from seqmix.data.images.hub import HubImages
from seqmix.data.images.pixels import RESAMPLING, eight_bits, middle, pixels, random_resized, random_square, read_image
from seqmix.errors import ConfigError, DataError

BICUBIC = RESAMPLING["bicubic"]


def fill_folder(folder, counts, size=(40, 30)):
    """``counts``: part -> class -> number of images; the red of an image is 10 times its class, plus its number."""
    for part, classes in counts.items():
        for c, (name, n) in enumerate(classes.items()):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", size, (10 * c + i, 0, 255)).save(folder / part / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("mode", "value", "want"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 257 * 90, (90, 90, 90)),
        ("I", 257 * 90, (90, 90, 90)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("LA", (50, 255), (50, 50, 50)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, want, tmp_path):
    image = Image.new(mode, (3, 2), value)
    assert eight_bits(image).getpixel((2, 1)) == want
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I") else "image.png")
    image.save(path)
    assert read_image(path).getpixel((0, 0)) == want
    gray = read_image(path, 1)
    assert gray.mode == "L" and pixels(gray).shape == (1, 2, 3)
    assert abs(gray.getpixel((0, 0)) - (0.299 * want[0] + 0.587 * want[1] + 0.114 * want[2])) <= 1


def test_palette_with_transparency_and_turned_photographs(tmp_path):
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)
    photograph = Image.new("RGB", (4, 2), (9, 9, 9))
    exif = photograph.getexif()
    exif[0x0112] = 6  # a quarter turn
    photograph.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (2, 4)


def test_bad_files(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    (tmp_path / "text.png").write_text("no image")
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tif")
    for name, message in {
        "cut.png": "cut.png: cannot be read (",
        "text.png": "text.png: no image; leave it out",
        "float.tif": "32-bit floating point",
        "absent.png": "absent.png: cannot be read (",
    }.items():
        with pytest.raises(DataError) as error:
            read_image(tmp_path / name)
        assert message in str(error.value)


def test_the_middle_is_the_middle():
    """A ramp of 80 x 60, at crop_pct 0.5 of 20 pixels, becomes 53 x 40, of which columns 16 to 36 remain."""
    ramp = Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (60, 1)))
    cut = np.asarray(middle(ramp, (20, 20), 0.5, RESAMPLING["bilinear"])).astype(float)
    assert cut.shape == (20, 20)
    assert np.allclose(cut[10], 80 / 53 * (np.arange(16, 36) + 0.5) - 0.5, atol=1)
    # timm's and torchvision's: 224 of 256 of the shorter side, whatever the shape
    for size, want in {(300, 400): (224, 224), (500, 224): (224, 224), (33, 65): (224, 224)}.items():
        assert middle(Image.new("L", size), (224, 224), 0.875, BICUBIC).size == want
    assert middle(ramp, (7, 63), 1.0, BICUBIC).size == (63, 7)


def test_random_crops_stay_inside():
    white = Image.new("L", (65, 7), 255)
    boxes = set()
    for _ in range(30):
        for cut in (random_resized(white, 9, RESAMPLING["bilinear"]), random_square(white, 6, 0.9, BICUBIC)):
            assert cut.size[0] == cut.size[1] and np.asarray(cut).min() == 255
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1)))
    for _ in range(30):
        cut = np.asarray(random_resized(ramp, 8, RESAMPLING["bilinear"])).astype(int)
        boxes.add((cut[0, 0], cut[0, -1]))
        # an eighth or more of the side, never mirrored
        assert 64 * 0.08**0.5 * 0.5 < cut[0, -1] - cut[0, 0] < 64
    assert len(boxes) > 20


def test_folder(tmp_path):
    fill_folder(tmp_path / "pets", {"train": {"cat": 6, "dog": 4}, "val": {"cat": 2, "dog": 1}})
    data = ImageFolder("pets", 16, 3, root=str(tmp_path), n_workers=0, val_share=0.2)
    assert (data.name, data.n_classes, data.n_channels, data.class_names) == ("pets", 2, 3, ["cat", "dog"])
    seen = {split: _reds(getattr(data, f"{split}_dataloader")()) for split in ("train", "val", "test")}
    # no image of the folder val is trained or validated on
    assert seen["test"] == [(0, 0), (1, 0), (10, 1)]
    assert sorted(seen["train"] + seen["val"]) == [*((i, 0) for i in range(6)), *((10 + i, 1) for i in range(4))]
    assert len(seen["val"]) == 2 and data.label_counts("test").tolist() == [2, 1]
    assert (data.label_counts("train") + data.label_counts("val")).tolist() == [6, 4]
    fill_folder(tmp_path / "pets", {"test": {"cat": 1, "dog": 1}})
    own = ImageFolder("pets", 16, 3, root=str(tmp_path), n_workers=0)
    assert len(_reds(own.train_dataloader())) == 10 and len(_reds(own.val_dataloader())) == 3
    assert _reds(own.test_dataloader()) == [(0, 0), (10, 1)]


def _reds(loader):
    found = []
    for batch in loader:
        assert batch["images"].dtype == torch.uint8 and batch["images"].shape[1:] == (3, 16, 16)
        found += zip(batch["images"][:, 0, 0, 0].tolist(), batch["labels"].tolist(), strict=True)
    return found


def test_what_is_an_image(tmp_path):
    """Hidden names are ignored, links followed once, other files counted in a warning."""
    train = fill_folder(tmp_path / "pets", {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}}) / "train"
    fill_folder(tmp_path / "more", {"elsewhere": {"poodle": 2}})
    (train / ".ipynb_checkpoints").mkdir()
    (train / "cat" / ".thumbnails").mkdir()
    Image.new("RGB", (9, 9)).save(train / "cat" / ".thumbnails" / "0.png")
    (train / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (train / "dog" / "linked").symlink_to(tmp_path / "more" / "elsewhere", target_is_directory=True)
    (train / "dog" / "linked" / "back").symlink_to(train / "dog", target_is_directory=True)
    (train / "dog" / "notes.txt").write_text("no image")
    (train / "dog" / "raw.HEIC").write_bytes(b"")
    Image.new("RGB", (40, 30), (13, 0, 255)).save(train / "cat" / "new.avif")
    Image.new("RGB", (40, 30), (14, 0, 255)).save(train / "cat" / "OLD.JPG")
    data = ImageFolder("pets", 16, 3, root=str(tmp_path), n_workers=0)
    with pytest.warns(
        UserWarning, match=r"2 files in .*train are no images and are left out: \.heic \(1\), \.txt \(1\)"
    ):
        data.setup()
    assert data.class_names == ["cat", "dog"]
    assert (data.label_counts("train") + data.label_counts("val")).tolist() == [5, 4]
    # a whole class may be a link, and a class without an image is refused
    (train / "bird").symlink_to(tmp_path / "more" / "elsewhere" / "poodle", target_is_directory=True)
    assert ImageFolder("pets", root=str(tmp_path)).class_names == ["bird", "cat", "dog"]
    (train / "empty").mkdir()
    with pytest.raises(DataError, match=r"train/empty holds no image; put some there, or remove the folder"):
        ImageFolder("pets", root=str(tmp_path)).setup()


def test_gray_folder(tmp_path):
    fill_folder(tmp_path / "pets", {part: {"cat": 3, "dog": 2} for part in ("train", "val", "test")})
    data = ImageFolder("pets", 16, 3, root=str(tmp_path), n_workers=0, n_channels=1)
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (3, 1, 16, 16) and data.input_cfg["input_size"] == (1, 16, 16)
    gray = round(0.114 * 255) / 255
    assert data.on_after_batch_transfer(batch, 0)["images"][0, 0, 0, 0].item() == pytest.approx((gray - 0.449) / 0.226)
    for options, message in {
        "n_channels": (2, "n_channels = 2; use 1 for gray images, 3 for RGB"),
        "mean": ([0.5], r"mean = \[0.5\] and std = .* should be 3 numbers each"),
        "std": ([0.5, 0.0, 1.0], "those of std positive"),
    }.items():
        with pytest.raises(ConfigError, match=message[1]):
            ImageFolder("pets", root=str(tmp_path), **{options: message[0]})
    with pytest.raises(ConfigError, match="rand_augment and color_jitter need three channels"):
        ImageFolder("pets", root=str(tmp_path), n_channels=1, augment=Augmentation(color_jitter=0.1))


@pytest.fixture
def noise(tmp_path):
    """Twenty images whose every crop is another one."""
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "noise" / part / name).mkdir(parents=True)
            for i in range(10 if part == "train" else 2):
                Image.effect_noise((24, 20), 80).save(tmp_path / "noise" / part / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("crop", ["resized", "plain"])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_order_and_crops_are_resumed(noise, crop, n_workers):
    """In the middle of the second epoch: the rest of it and the next are the same, whoever reads."""

    def loader(n_workers):
        options = {"root": str(noise), "n_workers": n_workers, "crop": crop, "crop_pct": 0.5, "seed": 3}
        return ImageFolder("noise", 8, 3, **options).train_dataloader()

    def images(batches):
        return [batch["images"] for batch in batches]

    whole = loader(0)
    first, second, third = images(whole), images(whole), images(whole)
    assert [len(batch) for batch in second] == [3] * 6 + [2]
    cut = loader(n_workers)
    assert all(torch.equal(a, b) for a, b in zip(images(cut), first, strict=True))
    torch.rand(7)
    # a look at the first batch does not move the loader, and workers forget what they were asked for before
    assert torch.equal(next(iter(cut))["images"], second[0])
    served = iter(cut)
    assert all(torch.equal(next(served)["images"], want) for want in second[:4])
    resumed = loader(n_workers)
    resumed.load_state_dict(cut.state_dict())
    got = images(resumed) + images(resumed)
    assert all(torch.equal(a, b) for a, b in zip(got, second[4:] + third, strict=True))
    # another order, and other crops of the same images
    assert not torch.equal(torch.cat(second).sort(0).values, torch.cat(third).sort(0).values)


class _Watch(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["images"].sum().item())
        return self.weight

    def on_train_batch_end(self, *_):
        if self.global_step == 10:
            self.trainer.save_checkpoint(f"{self.trainer.default_root_dir}/step10.ckpt")

    def validation_step(self, batch, batch_idx):
        """Validation opens a loader of its own in the middle of training."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_resumes(noise):
    """The checkpoint knows the seed of the shuffles, and where the epoch stood; processes that read end with it."""
    seen = {}
    for name, ckpt_path in (("whole", None), ("rest", noise / "step10.ckpt")):
        torch.manual_seed(len(seen))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        quiet = {**quiet, "num_sanity_val_steps": 0, "val_check_interval": 3, "enable_model_summary": False}
        trainer = pl.Trainer(max_steps=16, default_root_dir=noise, **quiet)
        task = _Watch()
        trainer.fit(task, ImageFolder("noise", 8, 3, root=str(noise), n_workers=len(seen)), ckpt_path=ckpt_path)
        seen[name] = task.seen
        assert not multiprocessing.active_children()
    assert len(set(seen["whole"])) == 16 and seen["rest"] == seen["whole"][10:]


def test_each_process_reads_its_part(noise):
    seen = []
    for rank in range(2):
        data = ImageFolder("noise", 8, 3, root=str(noise), n_workers=0, seed=1)
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, overfit_batches=0)
        seen.append(_images(data))
    data.trainer = None
    whole = _images(data)
    assert not {*seen[0]} & {*seen[1]} and sorted(seen[0] + seen[1]) == sorted(whole)


def _images(data):
    loaders = (data.train_dataloader(), data.test_dataloader())
    return [image.numpy().tobytes() for loader in loaders for batch in loader for image in batch["images"]]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_damaged_image_has_one_line(noise, n_workers):
    path = noise / "noise" / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    loader = ImageFolder("noise", 8, 3, root=str(noise), n_workers=n_workers).test_dataloader()
    with pytest.raises(DataError) as error:
        list(loader)
    assert str(error.value).startswith(f"{path}: cannot be read (") and "\n" not in str(error.value)


def test_folder_refuses(tmp_path):
    with pytest.raises(
        DataError, match=r"train has 0 folders of classes; put the images of each class into pets/train"
    ):
        ImageFolder("pets", root=str(tmp_path))
    fill_folder(tmp_path / "pets", {"train": {"cat": 1, "dog": 1}, "val": {"bird": 1}})
    with pytest.raises(DataError, match="'train' has no class of this name"):
        ImageFolder("pets", root=str(tmp_path)).setup()
    fill_folder(tmp_path / "lone", {"train": {"cat": 1, "dog": 1}})
    with pytest.raises(DataError, match="2 training images and 0 others"):
        ImageFolder("lone", root=str(tmp_path)).setup()
    for options, message in {
        "crop_pct": (1.5, "crop_pct is a share of the shorter side"),
        "val_share": (0.0, "val_share is a share of the images"),
        "n_workers": (-1, "n_workers must not be negative"),
        "crop": ("square", "crop = 'square' is not known; use one of resized, plain"),
    }.items():
        with pytest.raises(ConfigError, match=message[1]):
            ImageFolder("lone", root=str(tmp_path), **{options: message[0]})


def test_table_of_images(monkeypatch):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [Image.new("L", (20, 30), 10 * i) for i in range(10)], "kind": [i % 2 for i in range(10)]}
    table = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path: {"train": table, "test": table.select([0, 1, 2])})
    data = HubImages("someone/pets", 16, 4, image_col="img", label_col="kind", n_workers=0)
    assert (data.n_classes, data.class_names) == (2, ["cat", "dog"])
    assert _reds(data.test_dataloader()) == [(0, 0), (10, 1), (20, 0)]
    assert sorted(_reds(data.train_dataloader()) + _reds(data.val_dataloader())) == [(10 * i, i % 2) for i in range(10)]
    assert data.label_counts("test").tolist() == [2, 1]
    with pytest.raises(DataError, match=r"has no column 'image', it has img, kind; set data.image_col"):
        HubImages("someone/pets")
    with pytest.raises(DataError, match="column 'img' of someone/pets is not a class label"):
        HubImages("someone/pets", image_col="img", label_col="img")


def _batch(B=4, C=3, size=16):
    return {"images": torch.randint(256, (B, C, size, size), dtype=torch.uint8), "labels": torch.arange(B) % 3}


def test_bytes_are_normalized():
    batch = _batch()
    images = finish(batch, None, 3, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))["images"]
    want = (batch["images"][1, 2, 3, 4].item() / 255 - 0.3) / 0.3
    assert images[1, 2, 3, 4].item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_say_what_was_mixed(kind):
    """Images of one color for each class: the mean of a mixture is the share its target has."""
    labels = torch.tensor([0, 0, 1, 1])
    batch = {"images": (255 * labels[:, None, None, None]).expand(4, 3, 32, 32).to(torch.uint8), "labels": labels}
    shares = set()
    for _ in range(20):
        mixed = finish(batch, Augmentation(**{kind: 1.0}), 2, (0.0,) * 3, (1.0,) * 3)
        torch.testing.assert_close(mixed["images"].mean((1, 2, 3)), mixed["targets"][:, 1])
        torch.testing.assert_close(mixed["targets"].sum(1), torch.ones(4))
        whole = set(mixed["images"][0].unique().tolist())
        assert whole <= {0.0, 1.0} if kind == "cutmix" else len(whole) == 1
        shares.add(round(mixed["targets"][0, 0].item(), 3))
    assert len(shares) > 10
    assert torch.equal(mixed["labels"], labels)


def test_both_kinds_of_mixing_take_turns():
    batch = {"images": torch.zeros(2, 1, 16, 16, dtype=torch.uint8), "labels": torch.tensor([0, 1])}
    batch["images"][1] = 255
    kinds = [len(Augmentation(mixup=0.8, cutmix=1.0)(
        {**batch, "images": batch["images"] / 255}, 2, torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    )["images"][0].unique()) for _ in range(40)]  # fmt: skip
    assert 5 < kinds.count(2) < 35


@pytest.mark.parametrize(("H", "W", "share"), [(1, 7, 0.5), (63, 65, 0.1), (8, 8, 1.0), (8, 8, 0.0)])
def test_paste_counts_what_is_left(H, W, share):
    x = torch.zeros(2, 1, H, W)
    x[1] = 1
    mixed, left = paste(x, share)
    assert mixed[0].mean().item() == pytest.approx(1 - left, abs=1e-6)
    assert mixed[1].mean().item() == pytest.approx(left, abs=1e-6)


def test_erasing():
    x = torch.zeros(400, 2, 32, 24)
    erased = erase(x, 0.25)
    share = (erased != 0).float().mean((1, 2, 3))
    hit = share > 0
    assert 60 < hit.sum() < 140
    assert share[hit].max() < 0.4 and 0.1 < share[hit].mean() < 0.25
    # noise for each pixel, the same box in all channels, a box
    one = erased[hit][0]
    assert one[one != 0].unique().numel() == (one != 0).sum()
    box = one[0] != 0
    assert torch.equal(box, box.any(1)[:, None] & box.any(0)[None]) and torch.equal(box, one[1] != 0)
    assert torch.equal(erase(x, 0.0), x)


def test_flip_and_colors():
    ramp = (torch.arange(16.0) / 16).expand(64, 3, 16, 16)
    batch = {"images": ramp, "labels": torch.zeros(64, dtype=torch.long)}
    nothing, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    flipped = Augmentation(flip="horizontal")(batch, 3, nothing, one)["images"]
    turned = (flipped[:, 0, 0, 0] > 0.5).sum()
    assert 16 < turned < 48 and torch.equal(flipped.sort(3).values, ramp)
    pytest.importorskip("kornia")
    changed = Augmentation(rand_augment=9, color_jitter=0.4)(batch, 3, nothing, one)["images"]
    assert changed.shape == ramp.shape and changed.isfinite().all() and not torch.equal(changed, ramp)
    assert changed.min() >= 0 and changed.max() <= 1


def test_without_kornia(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(ConfigError, match=r"kornia is needed for rand_augment and color_jitter; pip install"):
        Augmentation(rand_augment=9)
    Augmentation(mixup=0.8, cutmix=1.0, erasing=0.25, flip="horizontal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rand_augment": 27}, "rand_augment is a magnitude from 0 to 10, got 27"),
        ({"erasing": 2.0}, "erasing is a probability, 0 to 1, got 2.0"),
        ({"mixup": -1.0}, "mixup = -1.0, cutmix = 0.0, color_jitter = 0.0; none may be negative"),
        ({"flip": "vertical"}, "flip = 'vertical' is not known; use one of horizontal, none"),
    ],
)
def test_augmentation_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)


needs_fashion = pytest.mark.skipif(
    not (data_folder(None) / "fashion_mnist").is_dir(), reason="Fashion-MNIST is not in SEQMIX_DATA"
)


@needs_fashion
def test_fashion_mnist():
    data = FashionMNIST(100, n_train=1000, n_val=500)
    assert (data.n_channels, data.n_classes, data.img_size) == (1, 10, 28)
    (first, *_), labels = next(iter(data.test_dataloader()))["images"], next(iter(data.test_dataloader()))["labels"]
    # the first test images are an ankle boot, a pullover and two pairs of trousers
    assert [data.class_names[k] for k in labels[:4]] == ["Ankle boot", "Pullover", "Trouser", "Trouser"]
    assert first.shape == (1, 28, 28) and first.dtype == torch.uint8
    assert data.label_counts("test").tolist() == [1000] * 10
    assert data.label_counts("train").sum() == 1000 and data.label_counts("val").sum() == 500
    images = torch.cat([data.on_after_batch_transfer(b, 0)["images"] for b in data.train_dataloader()])
    assert abs(images.mean()) < 0.05 and abs(images.std() - 1) < 0.05
    rows = data._splits["train"].pixels.flatten(1), data._splits["val"].pixels.flatten(1)
    assert not (torch.cdist(*(r.float() for r in rows)) == 0).any(1).sum() > 5


def test_fashion_mnist_refuses(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz not found in .*fashion_mnist; download it from"):
        FashionMNIST(root=str(tmp_path)).setup()
    (tmp_path / "fashion_mnist").mkdir()
    (tmp_path / "fashion_mnist" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="is not the published file: its sha256 is"):
        FashionMNIST(root=str(tmp_path)).setup()
    with pytest.raises(ConfigError, match=r"n_train = 58000 and n_val = 5000 are more than the 60,000"):
        FashionMNIST(n_train=58_000)
