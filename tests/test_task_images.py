"""The image task: it learns, counts every image, decays what should be, averages weights, and starts from others."""

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from test_data_images import fill_folder
from torch.nn import functional as F

from seqmix.commands.train import Train
from seqmix.data.images.augment import Augmentation
from seqmix.data.images.fashion import FashionMNIST
from seqmix.data.images.pixels import LabeledImages
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import LongVQ
from seqmix.tasks._lamb import Lamb
from seqmix.tasks._layers import block_depths
from seqmix.tasks.images import ImageClassification
from seqmix.vision import Attention2d, MetaFormer, Pool2d, Raster, create_model

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
@pytest.mark.parametrize(("optimizer", "lr", "epochs"), [("adamw", 5e-3, 5), ("lamb", 5e-2, 14)])
def test_it_learns_and_counts_every_image(optimizer, lr, epochs, tmp_path):
    task = ImageClassification(TINY, 10, 1, optimizer=optimizer, lr=lr, schedule="constant", warmup=0.0)
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
    task = ImageClassification(TINY, 10, 1, lr=1e-3, weight_decay=0.3, layer_decay=0.5)
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
    task = ImageClassification(TINY, 10, 1, lr=5e-3)
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


IMAGES = [p for p in sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml")) if "ImageClassif" in p.read_text()]


@pytest.mark.parametrize("path", [*IMAGES, "ffnet_1", "HydraViT", "seqmix.vision.HydraViT"], ids=lambda p: Path(p).stem)
def test_saved_config_makes_the_same_model(path, tmp_path, monkeypatch):
    """A name, a class and a nested class are written into config.yaml so that they are read again."""
    monkeypatch.chdir(tmp_path)
    fill_folder(tmp_path / "imagenet", {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    argv = ["--config", str(path if isinstance(path, Path) else IMAGES[-1]), "--trainer.accelerator", "cpu"]
    argv += [] if isinstance(path, Path) else ["--model.model", path, "--model.options", "null"]
    argv += ["--data.root", str(tmp_path)] if "ImageFolder" in Path(argv[1]).read_text() else []
    with torch.device("meta"):
        first = Train("fit", argv)
        (tmp_path / "saved.yaml").write_text(first._config_text())
        again = Train("fit", ["--config", "saved.yaml"])
    assert again._config_text() == first._config_text() and "serialize" not in first._config_text()
    assert again.model.label == first.model.label
    assert [p.shape for p in again.model.parameters()] == [p.shape for p in first.model.parameters()]


def test_a_checkpoint_knows_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fashion = next(p for p in IMAGES if p.stem == "pool_fashion")
    argv = ["--config", str(fashion), "--trainer.accelerator", "cpu"]
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
        ({"model": "caformer_s18", "options": {"features_only": True}}, "features_only gives maps and no classes"),
        ({"options": {"drop_rate": 0.1}}, "go with the name of a model; write them into init_args of model"),
        ({"layer_decay": 0.0}, "layer_decay is a factor, 0 < layer_decay <= 1, got 0.0; use 0.8, or 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is a share, 0 <= label_smoothing < 1, got 1.0; use 0.1"),
        ({"optimizer": "sgd"}, "optimizer = 'sgd' is not known; use one of adamw, lamb"),
        ({"n_classes": None}, "ImageClassification needs data that knows n_classes"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError) as error:
        ImageClassification(**{"model": TINY, "n_classes": 2, "n_channels": 3, **options})
    assert message in str(error.value)
