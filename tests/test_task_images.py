"""The image task: it learns, counts every image, decays what should be, averages weights, and starts from others."""

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging
from test_data_images import fill_folder
from torch.nn import functional as F

from seqmix.cli import run
from seqmix.commands.train import Train
from seqmix.data.images.augment import Augmentation
from seqmix.data.images.fashion import FashionMNIST
from seqmix.data.images.pixels import LabeledImages
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import FNet, LongVQ
from seqmix.tasks import LAMB, AdamW
from seqmix.tasks._lamb import Lamb
from seqmix.tasks._layers import block_depths
from seqmix.tasks.images import ImageClassification
from seqmix.vision import Attention2d, CrossScan, Dense2d, FFNet, MetaFormer, Pool2d, Raster, create_model

TINY = partial(MetaFormer, depths=(1, 2), dims=(8, 16), stem=(3, 2, 1), mixers=[Pool2d])


def _trainer(folder, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **quiet, **options)


def _data(n=96, **options):
    """Images that are dark above or below, by their class."""
    data = FashionMNIST(16, **{"eval_batch_size": 7, **options})
    labels = torch.arange(n) % 2
    pixels = torch.randint(128, (n, 1, 28, 28))
    pixels[labels == 0, :, :14] += 120
    pixels[labels == 1, :, 14:] += 120
    images = LabeledImages(pixels.to(torch.uint8), labels)
    data._splits = {"train": images, "val": images.take(torch.arange(30)), "test": images.take(torch.arange(31))}
    return data


# a step of LAMB is as long as lr times the weights, which are short at first
@pytest.mark.parametrize(("optimizer", "lr", "epochs"), [(AdamW, 5e-3, 5), (LAMB, 5e-2, 14)])
def test_it_learns_and_counts_every_image(optimizer, lr, epochs, tmp_path):
    task = ImageClassification(TINY, 10, 1, optim=optimizer(lr=lr, weight_decay=0.05, schedule="constant"))
    assert task.label == "MetaFormer (Pool2d)"
    data = _data(augment=Augmentation(mixup=0.2, erasing=0.25))
    trainer = _trainer(tmp_path, max_epochs=epochs)
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    # 31 images in batches of 7: the last has 3
    assert metrics["test_images"] == 31 and metrics["test_accuracy"] > 0.9
    batch = data.on_after_batch_transfer(data._splits["test"].gather(torch.arange(31)), 0)
    with torch.no_grad():
        scores = task.eval()(batch)
    assert metrics["test_loss"] == pytest.approx(float(F.cross_entropy(scores, batch["labels"])), rel=1e-5)
    assert metrics["test_accuracy"] == pytest.approx(float((scores.argmax(1) == batch["labels"]).float().mean()))
    assert torch.equal(task.predict_step(batch, 0)["predicted"], scores.argmax(1))


def test_loss_of_mixed_targets():
    task = ImageClassification(TINY, 3, 1, label_smoothing=0.1).eval()
    task.log = lambda *a, **k: None
    batch = {"images": torch.randn(5, 1, 28, 28), "labels": torch.tensor([0, 1, 2, 0, 1])}
    log_p = task(batch).log_softmax(-1)
    share = torch.rand(5, 3).softmax(-1)
    for targets, given in ((share, {"targets": share}), (F.one_hot(batch["labels"], 3), {})):
        smooth = 0.9 * targets + 0.1 / 3
        torch.testing.assert_close(task.training_step({**batch, **given}, 0), -(smooth * log_p).sum(1).mean())


def _groups(task, folder):
    """Weight decay and learning rate of each parameter, by name."""
    trainer = _trainer(folder, max_steps=1, max_epochs=1)
    trainer.fit(task, _data())
    found = {p: g for g in trainer.optimizers[0].param_groups for p in g["params"]}
    return {name: found[p] for name, p in task.model.named_parameters()}


def test_parameter_groups(tmp_path):
    task = ImageClassification(TINY, 10, 1, optim=AdamW(weight_decay=0.3, layer_decay=0.5))
    groups = _groups(task, tmp_path)
    for name, p in task.model.named_parameters():
        assert groups[name]["weight_decay"] == (0.3 if p.ndim > 1 else 0.0), name
    # three blocks, then the head; what lies before a block goes with it
    for name, before_head in {
        "downsample_layers.0.conv.weight": 3,
        "stages.0.0.mlp.fc1.weight": 3,
        "downsample_layers.1.pre_norm.weight": 2,
        "stages.1.0.res_scale1.scale": 2,
        "stages.1.1.norm2.weight": 1,
        "norm.weight": 0,
        "head.weight": 0,
    }.items():
        assert groups[name]["initial_lr"] == pytest.approx(1e-3 * 0.5**before_head), name


@pytest.mark.parametrize("name", ["poolformer_s12", "caformer_s18", "ffnet_1", "iformer_small", "affnet_et"])
def test_every_parameter_has_its_block(name):
    depths = block_depths(create_model(name, num_classes=2))
    names = list(depths)
    head = max(depths.values())
    first = names[0]
    assert depths[first] == 0 and len(set(depths.values())) == head + 1 > 8
    # parameters are written down in the order of the network, but for what lies between stages
    stage = [d for n, d in depths.items() if n.startswith(("stages.", "network."))]
    assert name == "iformer_small" or stage == sorted(stage) or name == "affnet_et"
    assert [n for n in names if depths[n] == head and n.startswith(("head", "classifier", "norm", "conv_1x1_exp"))]


def test_lamb_by_hand():
    w, b = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Lamb([{"params": [w], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}], lr=0.1)
    for gradient in (0.01, -0.03):
        w.grad, b.grad = torch.full_like(w, gradient), torch.full_like(b, gradient)
        before = w.detach().clone(), b.detach().clone()
        optimizer.step()
        step = before[0] - w.detach(), before[1] - b.detach()
        # with decay a step is as long as lr times the weights, without it is Adam's
        assert step[0].norm().item() == pytest.approx(0.1 * before[0].norm().item(), rel=1e-5)
        mean, square = (0.01, 1e-4) if gradient > 0 else ((0.9 * 0.001 - 0.003) / 0.19, (0.999e-7 + 9e-7) / 0.001999)
        assert step[1].item() == pytest.approx(0.1 * mean / (square**0.5 + 1e-6), rel=1e-3)
        direction = torch.full((1, 2), mean / (square**0.5 + 1e-6)) + 0.1 * before[0]
        torch.testing.assert_close(F.normalize(step[0]), F.normalize(direction))
    # gradients are cut to a norm of 1 together: a hundred times as long, they do the same
    a, c = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    for p, scale in ((a, 10.0), (c, 1000.0)):
        p.grad = scale * torch.eye(2)
        Lamb([p], lr=0.1, eps=1e-2).step()
    torch.testing.assert_close(a, c)


def test_averaged_weights(tmp_path):
    """Lightning's own callback: what is tested is the average, not the last step."""
    task = ImageClassification(TINY, 10, 1, optim=AdamW(lr=5e-3, weight_decay=0.05, warmup=0.05))
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.model.head.weight.detach().clone())

    trainer = _trainer(tmp_path, max_epochs=2, callbacks=[Watch(), EMAWeightAveraging(decay=0.8)])
    trainer.fit(task, _data())
    want = seen[0]
    for weight in seen[1:]:
        want = 0.8 * want + 0.2 * weight
    assert not torch.allclose(seen[-1], want, atol=1e-4)
    torch.testing.assert_close(task.model.head.weight.detach(), want, atol=2e-3, rtol=0)


def test_published_weights_are_a_start(tmp_path):
    torch.save(create_model("poolformer_s12", num_classes=7).state_dict(), tmp_path / "w.pth")
    task = ImageClassification("poolformer_s12", 3, 1, options={"drop_path_rate": 0.1}, weights=str(tmp_path / "w.pth"))
    saved = torch.load(tmp_path / "w.pth")
    assert torch.equal(task.model.state_dict()["network.0.0.mlp.fc1.weight"], saved["network.0.0.mlp.fc1.weight"])
    assert torch.equal(task.model.patch_embed.proj.weight, saved["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert task.model.head.weight.shape == (3, 512) and task.label == "poolformer_s12"
    with pytest.raises(DataError, match=r"does not fit poolformer_s24"):
        ImageClassification("poolformer_s24", 3, 3, weights=str(tmp_path / "w.pth"))


# a class, a name, a name with options; those of further names run in test_configs.py
RECIPES = Path(__file__).parents[1] / "configs" / "recipes"
FORMS = [RECIPES / f"{name}.yaml" for name in ("pool_fashion", "affnet_et_imagenet", "caformer_s18_imagenet")]


@pytest.mark.parametrize("path", [*FORMS, "ffnet_1", "HydraViT", "seqmix.vision.HydraViT"], ids=lambda p: Path(p).stem)
def test_saved_config_makes_the_same_model(path, tmp_path, monkeypatch):
    """A name, a class and a nested class are written into config.yaml so that they are read again."""
    monkeypatch.chdir(tmp_path)
    fill_folder(tmp_path / "imagenet", {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    argv = ["--config", str(path if isinstance(path, Path) else FORMS[-1]), "--trainer.accelerator", "cpu"]
    argv += [] if isinstance(path, Path) else ["--model.model", path, "--model.options", "null"]
    argv += ["--data.root", str(tmp_path)] if "ImageFolder" in Path(argv[1]).read_text() else []
    with torch.device("meta"):
        first = Train("fit", argv)
        (tmp_path / "saved.yaml").write_text(first.text)
        again = Train("fit", ["--config", "saved.yaml"])
    assert again.text == first.text and "serialize" not in first.text
    assert again.model.label == first.model.label
    assert [p.shape for p in again.model.parameters()] == [p.shape for p in first.model.parameters()]


def test_a_checkpoint_knows_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill_folder(tmp_path / "pets", {part: {"cat": 1, "dog": 1} for part in ("train", "val")})
    argv = ["--model", "ImageClassification", "--data", "ImageFolder", "--data.path", "pets", "--data.root", "."]
    argv += ["--data.n_channels", "1", "--data.img_size", "32", "--trainer.accelerator", "cpu"]
    cli = Train("fit", [*argv, "--model.model", "affnet_et", "--model.options", "{drop_rate: 0.2}"])
    cli.trainer.strategy.connect(cli.model)
    cli.trainer.save_checkpoint("saved.ckpt", weights_only=True)
    task = ImageClassification.load_from_checkpoint("saved.ckpt")
    assert task.label == "affnet_et" and task.model.dropout.p == 0.2
    assert all(torch.equal(t, cli.model.state_dict()[key]) for key, t in task.state_dict().items())
    # it is a start for other classes and channels too
    tuned = ImageClassification("affnet_et", 3, 3, weights="saved.ckpt")
    assert torch.equal(tuned.model.conv_1x1_exp.block.conv.weight, task.model.conv_1x1_exp.block.conv.weight)
    torch.testing.assert_close(
        tuned.model.conv_1.block.conv.weight.sum(1), task.model.conv_1.block.conv.weight.squeeze(1)
    )


def test_the_auxiliary_loss_of_mixers_is_added():
    network = partial(MetaFormer, depths=(1,), dims=(16,), mixers=[partial(Raster, mixer=partial(LongVQ, n_codes=4))])
    task = ImageClassification(network, 2, 3)
    task.log = lambda *a, **k: None
    task.training_step({"images": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}, 0).backward()
    (mixer,) = (m for m in task.modules() if isinstance(m, LongVQ))
    assert mixer.codebook.updates == 1


def test_what_is_frozen():
    def trained(**options):
        task = ImageClassification(TINY, 2, 3, **options).train()
        assert task.model.training
        return {n for n, p in task.model.named_parameters() if p.requires_grad}, task.model

    everything, _ = trained()
    later, model = trained(freeze=1)
    assert everything - later == {n for n in everything if n.startswith(("downsample_layers.0.", "stages.0."))}
    probe, model = trained(freeze="backbone")
    assert probe == {"head.weight", "head.bias"}
    assert {n for n, m in model.named_modules() if m.training} == {"", "head"}
    ffnet = partial(FFNet, dims=(8,), depths=(1,), token_kernels=(3,))
    model = ImageClassification(ffnet, 2, 3, freeze_norms=True).train().model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 5 and not any(m.training or m.weight.requires_grad for m in norms)
    assert model.stages[0][0].training and model.head.weight.requires_grad


@pytest.mark.parametrize("size", [20, 40])
def test_images_that_do_not_fit_are_refused_first(size):
    """The grid of a model is that of its img_size, and strides need pixels."""
    cfg = {**FashionMNIST().input_cfg, "input_size": (1, size, size)}
    flat = partial(MetaFormer, depths=(1,), dims=(8,), mixers=[Dense2d], img_size=32)
    with pytest.raises(ConfigError, match=r"MetaFormer \(Dense2d\) cannot take the images of the data \(a grid of"):
        ImageClassification(flat, 10, 1, input_cfg=cfg)
    with pytest.raises(ConfigError, match=r"caformer_s18 cannot take the images of the data \(images of 28 x 28"):
        ImageClassification("caformer_s18", 10, 1, input_cfg=FashionMNIST().input_cfg)
    assert ImageClassification(flat, 10, 1, input_cfg={**cfg, "input_size": (1, 32, 32)}).model.training


def test_labels():
    assert ImageClassification(partial(FFNet, dims=(8,), depths=(1,), token_kernels=(3,)), 2, 3).label == "FFNet"
    mixers = [partial(Raster, mixer=FNet), partial(CrossScan, mixer=FNet), Pool2d]
    task = ImageClassification(partial(MetaFormer, depths=(1, 1, 1), dims=(8, 8, 8), mixers=mixers), 2, 3)
    assert task.label == "MetaFormer (Raster(FNet)+CrossScan(FNet)+Pool2d)"


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_precision(precision, tmp_path):
    task = ImageClassification(TINY, 10, 1)
    trainer = _trainer(tmp_path, max_epochs=1, precision=precision)
    trainer.fit(task, _data())
    assert trainer.callback_metrics["train_loss"].isfinite()


def test_weights_are_tested_as_they_are(tmp_path, monkeypatch, capsys):
    """Published or of a run: `seqmix test --model.weights`; a checkpoint does without the file."""
    monkeypatch.chdir(tmp_path)
    counts = {"cat": 6, "dog": 6, **{f"c{i}": 1 for i in range(5)}}
    fill_folder(tmp_path / "pets", dict.fromkeys(("train", "val", "test"), counts))
    torch.save(create_model("affnet_et", num_classes=7).state_dict(), "seven.pth")
    torch.save(create_model("affnet_et", num_classes=9).state_dict(), "nine.pth")
    argv = ["--model", "ImageClassification", "--model.model", "affnet_et", "--data", "ImageFolder"]
    argv += ["--data.path", "pets", "--data.root", str(tmp_path), "--data.n_workers", "0", "--data.img_size", "32"]
    argv += ["--data.mean", "[0.0, 0.0, 0.0]", "--data.std", "[1.0, 1.0, 1.0]"]
    argv += ["--trainer.accelerator", "cpu", "--model.weights"]
    assert run(["test", *argv, "nine.pth"]) == 1
    assert "`seqmix test` needs trained weights" in capsys.readouterr().err
    assert run(["test", *argv, "seven.pth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pets: 17 test images, 7 classes, 32 pixels" in lines[0] and "test top5" in lines[1]
    majority = next(line for line in lines if "Majority" in line)
    assert f"{6 / 17:.4f}" in majority and f"{15 / 17:.4f}" in majority
    assert run(["fit", *argv, "seven.pth", "--trainer.max_epochs", "1", "--test", "false", "--name", "tuned"]) == 0
    (folder,) = Path("runs/tuned").iterdir()
    Path("seven.pth").unlink()
    assert run(["test", *argv, "seven.pth", "--ckpt_path", str(folder / "best.ckpt"), "--name", "tuned"]) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["weights"] == "seven.pth"
    saved = ["--config", str(folder / "config.yaml"), "--ckpt_path", "best", "--out", "classes.csv"]
    assert run(["predict", *saved]) == 0
    table = pd.read_csv("classes.csv")
    assert list(table["image"]) == list(range(17)) and list(table["class"]) == sorted(table["class"])
    assert set(table["predicted"]) <= counts.keys() and table["probability"].between(1 / 7, 1).all()
    task = ImageClassification.load_from_checkpoint(folder / "best.ckpt")
    assert task.class_names == sorted(counts) and task.input_cfg["input_size"] == (3, 32, 32)
    with pytest.warns(UserWarning, match=r"the weights expect images with std = .*; set data.std"):
        cfg = {**task.input_cfg, "std": (0.5, 0.5, 0.5)}
        ImageClassification("affnet_et", 7, 3, weights=str(folder / "best.ckpt"), input_cfg=cfg)


def test_checkpointed_gradients_are_the_same():
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    gradients = []
    for grad_checkpointing in (False, True):
        torch.manual_seed(0)
        network = partial(MetaFormer, depths=(1, 1), dims=(16, 32), mixers=[partial(Attention2d, head_dim=8)])
        task = ImageClassification(network, 2, 3, grad_checkpointing=grad_checkpointing)
        task.log = lambda *a, **k: None
        task.training_step({"images": images, "labels": labels}, 0).backward()
        gradients.append(task.model.downsample_layers[0].conv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "caformer_18"}, "no image model 'caformer_18'; did you mean caformer_s18"),
        ({"model": "caformer_s18", "options": {"depth": 3}}, "caformer_s18 has no option 'depth'"),
        (
            {"model": "caformer_s18", "options": {"features_only": True}},
            "makes a FeaturePyramid, which is no ImageModel with classes",
        ),
        ({"options": {"drop_rate": 0.1}}, "go with the name of a model; write them into init_args of model"),
        ({"label_smoothing": 1.0}, "label_smoothing is a share, 0 <= label_smoothing < 1, got 1.0; use 0.1"),
        ({"n_classes": None}, "ImageClassification needs data that knows n_classes"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError) as error:
        ImageClassification(**{"model": TINY, "n_classes": 2, "n_channels": 3, **options})
    assert message in str(error.value)
