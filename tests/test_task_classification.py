"""Classification: every mixer learns, padding changes nothing, every example counts, the baseline stands beside."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from learning import share_left, step
from test_task_contract import quiet_trainer
from torch import nn
from torch.nn import functional as F

from seqmix.commands.train import Train
from seqmix.data import ListOps
from seqmix.data.sequences.labeled import LabeledBytes, LabeledData, join
from seqmix.errors import ConfigError
from seqmix.mixers import Attention, FNet, Identity, LongVQ, Mamba, PoNet, list_mixers, mixer_facts
from seqmix.models import ChannelMLP, SequenceClassifier
from seqmix.models.token_classifier import sinusoids
from seqmix.tasks import AdamW, Classification

SMALL = {"d_model": 8, "n_layers": 2}


class Counting(LabeledData):
    """Is byte 1 more frequent than byte 2?"""

    def __init__(self, n=60, pairs=False, batch_size=16, eval_batch_size=None):
        super().__init__("Counting", 4, 2, 9, batch_size, pairs=pairs, eval_batch_size=eval_batch_size, seed=0)
        self.n = n

    def _make(self):
        made = {}
        for seed, split in enumerate(("train", "val", "test")):
            generator = torch.Generator().manual_seed(seed)
            sequences, labels = [], []
            for _ in range(self.n * (1 + self.pairs)):
                length = 2 * int(torch.randint(5, (), generator=generator)) + 1
                sequences.append(bytes(torch.randint(1, 3, (length,), generator=generator).tolist()))
            for first, last in zip(sequences[:: 1 + self.pairs], sequences[self.pairs :: 1 + self.pairs], strict=True):
                ones = (first + last if self.pairs else first).count(1)
                labels.append(int(2 * ones > len(first + last if self.pairs else first)))
            made[split] = LabeledBytes(*join(sequences, labels), pairs=self.pairs)
        return made


def _model(mixer, **options):
    return partial(SequenceClassifier, **{"mixer": mixer, **SMALL, **options})


# one mixer of each kind: all learn in test_task_tokens.py, and their contract says that padding changes no gradient
LEARNED = ("Attention", "DeltaNet", "FNet", "Hydra", "Hyena", "LongVQ", "Mamba", "Mamba3", "PoNet", "SLSTM")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in LEARNED)) for n in list_mixers()]
)
def test_one_batch_is_learned_by_heart(name):
    cls, example = mixer_facts(name).cls, mixer_facts(name).examples[0]
    task = Classification(_model(partial(cls, **example), d_model=16), 5, 3, 11)
    batch = {"tokens": torch.randint(5, (6, 11)), "labels": torch.arange(6) % 3}
    batch["mask"] = torch.arange(11) < torch.tensor([11, 1, 5, 11, 8, 3]).unsqueeze(1)
    # steps of 0.02 throw Mamba3 off again after it has learned all
    assert share_left(task, batch, 30, lr=0.01) < 0.5


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("eval_batch_size", [1, 7, 64])
def test_metrics_are_over_every_example(pairs, eval_batch_size, tmp_path):
    data = Counting(23, pairs, eval_batch_size=eval_batch_size)
    task = Classification(_model(Identity), 4, 2, 9, pairs).eval()
    (metrics,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    batch = data._splits["test"].gather(torch.arange(23))
    with torch.no_grad():
        scores = task(batch)
    assert metrics["test_examples"] == 23
    assert metrics["test_accuracy"] == pytest.approx(float((scores.argmax(-1) == batch["labels"]).double().mean()))
    assert metrics["test_loss"] == pytest.approx(float(F.cross_entropy(scores, batch["labels"])), rel=1e-5)
    # a second pass starts from zero
    assert quiet_trainer(tmp_path).test(task, data, verbose=False) == [metrics]
    assert (task.monitor, task.better) == ("val_accuracy", "higher")
    assert torch.equal(task.predict_step(batch, 0)["predicted"], scores.argmax(-1))


@pytest.mark.parametrize("mixer", [Attention, FNet, PoNet, Mamba])
@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal"])
def test_padding_changes_nothing(mixer, pool, positions):
    """On the right, and on the left too: lengths, positions and pooling count kept tokens only."""
    if pool == "cls" and mixer is Mamba:
        with pytest.raises(
            ConfigError, match=r"pool = 'cls' reads the first position, .* \(Mamba\); use pool = 'last'"
        ):
            _model(mixer, pool=pool)(6, 3, 12)
        return
    model = _model(mixer, pool=pool, positions=positions)(6, 3, 12).double().eval()
    for length in (1, 2, 7):
        tokens = torch.randint(6, (2, length))
        want = model(tokens)
        assert want.shape == (2, 3)
        for pad in ((0, 5), (3, 0)):
            # PoNet pools local windows that reach over a left edge differently, by design of its segments
            if mixer is PoNet and pad[0]:
                continue
            mask = F.pad(torch.ones(2, length, dtype=torch.bool), pad)
            if pool == "cls" and pad[0] and mixer is not Attention:
                continue
            torch.testing.assert_close(model(F.pad(tokens, pad, value=4), mask), want)


def test_pairs_share_their_tower_and_tell_their_order():
    model = _model(Attention)(6, 3, 9, pairs=True).eval()
    tokens = torch.randint(6, (4, 2, 9))
    mask = torch.arange(9) < torch.randint(1, 10, (4, 2, 1))
    a, b = model.encode(tokens[:, 0], mask[:, 0]), model.encode(tokens[:, 1], mask[:, 1])
    torch.testing.assert_close(model(tokens, mask), model.head(torch.cat([a, b, a * b, a - b], -1)))
    assert not torch.allclose(model(tokens, mask), model(tokens.flip(1), mask.flip(1)))


def test_pooling_by_hand():
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    models = {pool: _model(FNet, pool=pool, positions="none")(6, 2).eval() for pool in ("mean", "last", "cls")}
    for model in models.values():
        model.load_state_dict(models["mean"].state_dict(), strict=False)
    each = models["mean"].backbone(models["mean"].embed(tokens), mask)
    torch.testing.assert_close(models["mean"].encode(tokens, mask)[1], each[1, :2].mean(0))
    torch.testing.assert_close(models["last"].encode(tokens, mask), torch.stack([each[0, 2], each[1, 1]]))
    model = models["cls"]
    put_before = torch.cat([model.first.expand(2, 1, -1), model.embed(tokens)], 1)
    want = model.backbone(put_before, F.pad(mask, (1, 0), value=True))[:, 0]
    torch.testing.assert_close(model.encode(tokens, mask), want)


def test_scalars_enter_as_numbers():
    model = _model(Identity, embed="scalar", scalar_mean=0.48, scalar_std=0.24)(256, 2, 4)
    got = model.embed(torch.tensor([[0, 255, 128]]))
    want = (torch.tensor([0, 1, 128 / 255]) - 0.48) / 0.24
    torch.testing.assert_close(got[0], want.unsqueeze(1) * model.embed.proj.weight[:, 0] + model.embed.proj.bias)


@pytest.mark.parametrize("d_model", [1, 7, 8])
def test_sinusoids(d_model):
    table = sinusoids(5, d_model)
    assert table.shape == (5, d_model) and table[0, 0] == 0
    torch.testing.assert_close(table[:, 0], torch.arange(5.0).sin())
    if d_model == 8:
        torch.testing.assert_close(table[3, 7], torch.tensor(3e-4).cos())
        assert not _model(Identity, positions="sinusoidal")(6, 2, 5).place.weight.requires_grad


def test_training_loss_by_hand():
    task = Classification(
        _model(partial(LongVQ, d_qk=6, n_codes=8, window=3, commitment=1.0)), 6, 3, 9, label_smoothing=0.3
    )
    batch = {"tokens": torch.randint(6, (4, 9)), "labels": torch.tensor([0, 2, 1, 1])}
    loss = step(task, batch)
    added = sum(m.auxiliary() for m in task.modules() if isinstance(m, LongVQ))
    log_p = task.model(batch["tokens"]).log_softmax(-1)
    want = -(0.7 * log_p[range(4), [0, 2, 1, 1]] + 0.1 * log_p.sum(-1)).mean()
    torch.testing.assert_close(loss - added, want)
    assert added > 0


@pytest.mark.parametrize(
    ("vocab_size", "n_classes", "max_len", "pairs", "ponet", "attention"),
    [
        (32, 10, 2048, False, 226_442, 209_802),
        (512, 2, 4096, False, 387_202, 370_562),
        (512, 2, 4096, True, 411_778, 395_138),
        (512, 10, 1024, False, 191_626, 174_986),
        (512, 2, 1024, False, 190_594, 173_954),
    ],
)
def test_published_sizes(vocab_size, n_classes, max_len, pairs, ponet, attention):
    """The two-layer models of PoNet's code on the five tasks of Long Range Arena."""
    for mixer, size in (
        (partial(PoNet, n_heads=2, variant="lra"), ponet),
        (partial(Attention, n_heads=2, qkv_bias=True, bias=True), attention),
    ):
        options = {"channel_mixer": partial(ChannelMLP, expand=2), "head_activation": nn.ReLU, "dropout": 0.1}
        model = _model(mixer, d_model=64, **options)(vocab_size, n_classes, max_len, pairs)
        assert sum(p.numel() for p in model.parameters()) == size


def test_the_best_checkpoint_is_the_most_accurate(tmp_path, monkeypatch):
    """Early stopping and the kept weights go by accuracy upwards, though the loss goes the other way."""
    monkeypatch.chdir(tmp_path)
    accuracies, losses = [0.5, 0.7, 0.6, 0.7], [1.0, 2.0, 1.5, 3.0]
    seen = []

    def finish(task, stage):
        if stage == "test":
            return {"accuracy": 0.0, "loss": 0.0}, 8
        seen.append(len(seen))
        return {"accuracy": accuracies[seen[-1]], "loss": losses[seen[-1]]}, 8

    monkeypatch.setattr(Classification, "finish", finish)
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {class_path: Classification, init_args: {patience: 2, model: "
        "{class_path: SequenceClassifier, init_args: {mixer: Identity, d_model: 8}}}}\n"
        "data: {class_path: ListOps, init_args: {n_train: 40, n_val: 8, n_test: 8, min_length: 4, max_length: 30}}\n"
        "trainer: {max_epochs: 9, accelerator: cpu}\n"
    )
    cli = Train("fit", ["--config", str(config)])
    cli.fit()
    assert len(seen) == 4
    with (next(Path("runs").glob("c/*")) / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    best = torch.load(next(Path("runs").glob("c/*/best.ckpt")), weights_only=False)
    assert best["epoch"] == 1 and best["run"]["best"] == pytest.approx([-0.7, 2.0])
    assert [row["model"] for row in rows] == ["Identity", "Majority"]
    assert (rows[0]["n_classes"], rows[0]["max_len"], rows[0]["examples"]) == ("10", "30", "8")


def test_the_majority_baseline(tmp_path):
    data = Counting(40)
    task = Classification(_model(Identity), 4, 2, 9)
    trainer = quiet_trainer(tmp_path)
    trainer.test(task, data, verbose=False)
    (found,) = task.baselines(data, None, 0)
    train, test = data.label_counts("train"), data.label_counts("test")
    assert found.metrics["accuracy"] == pytest.approx(float(test[train.argmax()]) / 40) and found.count == 40
    share = (train + 1) / 42
    assert found.metrics["loss"] == pytest.approx(float(-(test * share.log()).sum() / 40), abs=1e-6)
    # of 40 examples in batches of 16 the first 16
    limited = quiet_trainer(tmp_path, limit_test_batches=1)
    limited.test(task, data, verbose=False)
    (found,) = task.baselines(data, None, 0)
    labels = next(iter(data.test_dataloader()))["labels"]
    assert found.count == 16 == task.score().count
    assert found.metrics["accuracy"] == pytest.approx(float((labels == train.argmax()).double().mean()))


def test_it_learns_and_its_checkpoint_loads(tmp_path):
    data = Counting(300)
    task = Classification(_model(Identity, positions="none"), 4, 2, 9, optim=AdamW(lr=0.02))
    trainer = quiet_trainer(tmp_path, max_epochs=6)
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    assert metrics["test_accuracy"] > 0.95
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    loaded = Classification.load_from_checkpoint(tmp_path / "plain.ckpt", model=_model(Identity, positions="none"))
    assert trainer.test(loaded, data, verbose=False) == [metrics]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Classification(_model(Identity), 6, 3, 9, label_smoothing=1.0),
            "label_smoothing is a share, 0 <= label_smoothing < 1, got 1.0; use 0.1",
        ),
        (
            lambda: Classification(_model(Identity), 6, None, 9),
            "Classification needs data that knows n_classes; `seqmix list datasets` names some",
        ),
        (
            lambda: _model(Identity)(6, 3),
            "max_len is needed: positions = 'learned' keeps one vector per position; set it",
        ),
        (lambda: _model(Identity, pool="max")(6, 3, 9), "pool = 'max' is not known; use one of mean, cls, last"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message


def test_bfloat16():
    task = Classification(_model(Attention), 6, 3, 11).bfloat16()
    batch = {"tokens": torch.randint(6, (3, 11)), "labels": torch.tensor([0, 1, 2])}
    loss = step(task, batch)
    loss.backward()
    assert loss.dtype == torch.float32 and nn.utils.get_total_norm(p.grad for p in task.parameters()) > 0


def test_listops_is_served_to_the_task(tmp_path):
    data = ListOps(8, min_length=4, max_length=20, max_depth=3, n_train=16, n_val=8, n_test=8, root=str(tmp_path))
    task = Classification(_model(Attention), data.vocab_size, data.n_classes, data.max_len, data.pairs)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, data)
    assert trainer.global_step == 2
