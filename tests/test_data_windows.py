"""The window engine against plain slicing, and the loader against interruption."""

from itertools import chain

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from seqmix.data import Cycles, WindowLoader, Windows
from seqmix.data.loader import Gathered
from seqmix.errors import ConfigError, DataError


def _ragged(lengths, n_channels=2):
    indptr = torch.tensor([0, *lengths]).cumsum(0)
    rows = torch.arange(int(indptr[-1]) * n_channels, dtype=torch.float32)
    return rows.view(-1, n_channels), indptr


def _slices(values, indptr, context, horizon, stride, targets):
    """Start of every window, by walking through the series."""
    for i in range(len(indptr) - 1):
        lo, hi = (0, int(indptr[i + 1] - indptr[i])) if targets is None else targets[i].tolist()
        start = max(0, lo - context)
        while start + context + horizon <= hi:
            yield i, int(indptr[i]) + start
            start += stride


@pytest.mark.parametrize("lengths", [[5], [9, 5, 7, 63], [6, 0, 5]])
@pytest.mark.parametrize(("context", "horizon"), [(3, 2), (1, 1), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2, 7])
@pytest.mark.parametrize("part", [None, "last"])
def test_gather_equals_slicing(lengths, context, horizon, stride, part):
    values, indptr = _ragged(lengths)
    targets = None if part is None else torch.tensor([[n // 2, n] for n in lengths])
    future, static = values * 2 + 1, torch.arange(len(lengths) * 6.0).view(-1, 2, 3)
    mask, past, weight = values % 3 > 0, values[:, :1] - 7, values[:, 0] / 2
    windows = Windows(
        values,
        indptr,
        context,
        horizon,
        stride=stride,
        targets=targets,
        mask=mask,
        past=past,
        future=future,
        weight=weight,
        static=static,
        short="drop",
    )
    expected = list(_slices(values, indptr, context, horizon, stride, targets))
    assert len(windows) == len(expected)
    order = torch.randperm(len(windows))
    batch = windows.gather(order)
    for row, k in enumerate(order.tolist()):
        i, start = expected[k]
        middle, end = start + context, start + context + horizon
        assert torch.equal(batch["x"][row], values[start:middle])
        assert torch.equal(batch["y"][row], values[middle:end])
        assert torch.equal(batch["future"][row], future[start:end])
        assert torch.equal(batch["x_mask"][row], mask[start:middle])
        assert torch.equal(batch["y_mask"][row], mask[middle:end])
        assert torch.equal(batch["past"][row], past[start:middle])
        assert torch.equal(batch["weight"][row], weight[middle:end].mean())
        assert windows.rows(order)[0][row] == i and windows.rows(order)[1][row] == start
        assert torch.equal(batch["static"][row], static[i])


def test_horizon_of_validation_reaches_no_further_than_its_rows():
    values, indptr = _ragged([20], 1)
    windows = Windows(values, indptr, 6, 2, targets=torch.tensor([[10, 15]]))
    batch = windows.gather(torch.arange(len(windows)))
    assert batch["x"][:, 0, 0].tolist() == [4, 5, 6, 7]
    assert batch["y"][:, :, 0].tolist() == [[10, 11], [11, 12], [12, 13], [13, 14]]


def test_short_series_are_named():
    values, indptr = _ragged([9, 4, 12, 1])
    with pytest.raises(DataError) as error:
        Windows(values, indptr, 3, 2, ids=["a", "b", "c", "d"])
    assert str(error.value) == (
        "2 of 4 series have fewer than context + horizon = 5 rows, first: 'b' (4), 'd' (1); "
        "give longer series, a smaller context or horizon, or leave them out with short='drop'"
    )
    assert len(Windows(values, indptr, 3, 2, short="drop")) == 5 + 8
    with pytest.raises(DataError, match=r"4 of 4 series .* first: 0 \(9\), 1 \(4\), 2 \(12\);"):
        Windows(values, indptr, 30, 2, short="drop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": torch.tensor([0, 9])}, "indptr must rise from 0 to the 10 rows of values, got 0 to 9"),
        ({"indptr": torch.tensor([0, 12, 10])}, "indptr must rise"),
        ({"targets": torch.tensor([[0, 11]])}, "targets must be row ranges inside the 1 series"),
        ({"future": torch.zeros(9, 1)}, "future has 9 rows, values has 10"),
        ({"static": torch.zeros(1, 3, 1)}, r"static has shape \(1, 3, 1\); give \(n_series, C, S\) = \(1, 2, S\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    values, indptr = _ragged([10])
    with pytest.raises(ValueError, match=message):
        Windows(**{"values": values, "indptr": indptr, "context": 2, "horizon": 1} | change)


@pytest.mark.gpu
def test_windows_on_the_gpu_equal_those_on_the_cpu():
    values, indptr = _ragged([9, 63])
    windows = Windows(values, indptr, 3, 2, future=values, static=torch.ones(2, 2, 1))
    loaders = [WindowLoader(w, 7, shuffle=True, seed=1) for w in (windows, windows.to("cuda"))]
    for ours, theirs in zip(*loaders, strict=True):
        assert all(theirs[name].is_cuda and torch.equal(x, theirs[name].cpu()) for name, x in ours.items())
    data = Cycles()
    data.trainer = Trainer(accelerator="gpu", devices=1, logger=False, enable_progress_bar=False)
    assert data.train_dataloader().windows.device.type == "cuda"


def _starts(loader):
    return [batch["x"][:, 0, 0].int().tolist() for batch in loader]


def _loader(n_windows=10, batch_size=4, shuffle=True, seed=0):
    values, indptr = _ragged([n_windows + 2], 1)
    return WindowLoader(Windows(values, indptr, 2, 1), batch_size, shuffle=shuffle, seed=seed)


def test_every_window_is_served_once_and_the_last_batch_is_kept():
    assert _starts(_loader(shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    epoch = _starts(_loader())
    assert [len(batch) for batch in epoch] == [4, 4, 2] and len(_loader()) == 3
    served = [k for batch in epoch for k in batch]
    assert sorted(served) == list(range(10)) != served


def test_order_is_a_function_of_seed_and_epoch():
    loader = _loader()
    epochs = [_starts(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    torch.manual_seed(99)
    for epoch in (2, 0, 1):
        loader.set_epoch(epoch)
        assert _starts(loader) == epochs[epoch]
    # epoch 1 of seed 0 is not epoch 0 of seed 1
    assert _starts(_loader(seed=1)) not in epochs


def test_looking_at_the_first_batch_does_not_move_the_loader():
    loader = _loader()
    first = next(iter(loader))["x"]
    assert torch.equal(next(iter(loader))["x"], first)
    assert len(_starts(loader)) == 3


@pytest.mark.parametrize("served", [0, 1, 2, 3])
def test_loader_resumes_inside_an_epoch(served):
    loader = _loader()
    loader.set_epoch(5)
    batches = iter(loader)
    for _ in range(served):
        next(batches)
    state = loader.state_dict()
    rest = [batch["x"][:, 0, 0].int().tolist() for batch in batches]

    resumed = _loader()
    resumed.load_state_dict(state)
    resumed.set_epoch(5)
    assert _starts(resumed) == rest
    assert _starts(resumed) == _starts(loader)

    # a state of an epoch that the trainer has left behind says nothing about the next one
    resumed.load_state_dict(state)
    resumed.set_epoch(6)
    assert len(_starts(resumed)) == 3


def test_state_of_another_run_is_refused():
    with pytest.raises(ConfigError) as error:
        _loader(batch_size=5).load_state_dict(_loader().state_dict())
    assert str(error.value) == (
        "the checkpoint is of a run with 3 batches per epoch, this one has 2; "
        "resume with the same data, context, horizon, stride, batch_size and devices, or start afresh without ckpt_path"
    )


# lightning 2.6 makes a tree leaf in a way that torch 2.13 warns about
lightning_warns = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class _Tiny(LightningModule):
    """Records which windows it was trained on, in weights and in a list."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, round(batch["x"].sum().item(), 3)))
        return (self.net(batch["x"].mT).mT - batch["y"]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val", (self.net(batch["x"].mT).mT - batch["y"]).square().mean(), batch_size=len(batch["x"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


class _SaveOften(Callback):
    """A checkpoint at every moment at which Lightning takes one."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"batch-{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"validation-{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.global_step}.ckpt")


def _fit(callbacks=(), ckpt_path=None, seed=None, **options):
    torch.manual_seed(3)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        **options,
    )
    model = _Tiny()
    data = Cycles(8, 2, 16, n_channels=2, n_steps=80, lag=3, seed=seed)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, trainer


@lightning_warns
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 0.5}, {"limit_train_batches": 2}])
def test_a_run_resumed_anywhere_ends_the_same_bit_for_bit(tmp_path, options):
    model, trainer = _fit([_SaveOften(tmp_path)], **options)
    n_batches = trainer.num_training_batches
    assert len(model.seen) == 3 * n_batches == len(set(model.seen))
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) >= 3 * (n_batches + 2)
    for path in checkpoints:
        resumed, _ = _fit(ckpt_path=path, **options)
        assert resumed.seen == model.seen[len(model.seen) - len(resumed.seen) :], path.name
        assert torch.equal(resumed.net.weight, model.net.weight), path.name


@lightning_warns
def test_a_resumed_run_takes_the_seed_of_the_first(tmp_path):
    model, _ = _fit([_SaveOften(tmp_path)], seed=2**64 - 1)
    resumed, _ = _fit(ckpt_path=tmp_path / "batch-2.ckpt")
    assert resumed.seen == model.seen[2:]
    other, _ = _fit(seed=1)
    assert other.seen[0] != model.seen[0]


@lightning_warns
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_sees_the_same_batches_every_epoch():
    model, _ = _fit(overfit_batches=2)
    epochs = [{x for epoch, x in model.seen if epoch == e} for e in range(3)]
    assert epochs[0] == epochs[1] == epochs[2] and len(epochs[0]) == 2


@pytest.mark.parametrize(("lengths", "by_series"), [([60, 47, 9], False), ([14] * 25, True)])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_are_all_windows_and_do_not_overlap_with_the_rest(lengths, by_series, stride):
    context, horizon = 4, 3
    indptr = torch.tensor([0, *np.cumsum(lengths)])
    windows = Windows(torch.zeros(sum(lengths), 1), indptr, context, horizon, stride=stride)
    blocks = [[torch.cat(list(part.split(4))) for part in pair] for pair in windows.blocks(5, horizon)]
    assert torch.cat([inside for inside, _ in blocks]).sort().values.tolist() == list(range(len(windows)))
    for inside, near in blocks:
        rest = torch.tensor(sorted({*range(len(windows))} - {*near.tolist()}))
        (series, start), (others, starts) = windows.rows(inside), windows.rows(rest)
        apart = (start[:, None] - starts).abs() >= horizon
        assert set(inside.tolist()) <= set(near.tolist()) and len(rest) > len(windows) / 2
        assert (apart | (series[:, None] != others)).all()
        assert torch.isin(series, others).any() != by_series


def test_windows_that_all_overlap_have_no_blocks():
    assert Windows(torch.zeros(9, 1), torch.tensor([0, 9]), 4, 3).blocks(5, 3) == []


@pytest.mark.parametrize("n", [2, 3, 9, 12, 13, 15])
@pytest.mark.parametrize(("size", "n_ranks"), [(3, 2), (1, 2), (2, 3)])
def test_several_processes_serve_every_window_once(n, size, n_ranks):
    """In the batches of one process with batches as large as theirs together."""
    if n < n_ranks:
        with pytest.raises(ConfigError, match=r"^2 examples cannot be divided among 3 processes; use fewer devices$"):
            WindowLoader(_Numbers(n), size).divide(0, n_ranks)
        return
    loaders = [WindowLoader(_Numbers(n), size, shuffle=True, seed=3).divide(rank, n_ranks) for rank in range(n_ranks)]
    one = WindowLoader(_Numbers(n), size * n_ranks, shuffle=True, seed=3)
    for _ in range(2):
        parts = [[batch["x"].tolist() for batch in loader] for loader in loaders]
        assert {len(part) for part in parts} == {len(loaders[0])} and all(map(all, parts))
        together = [list(chain(*step)) for step in zip(*parts, strict=True)]
        whole = [batch["x"].tolist() for batch in one]
        assert list(chain(*together)) == list(chain(*whole))
        # but for a last batch that would leave a process without an example
        assert together[:-1] == whole[: len(together) - 1] and len(whole) - len(together) in (0, 1)
    # a process resumes in the middle of its epoch
    begun, again = (WindowLoader(_Numbers(n), size, shuffle=True, seed=3).divide(1, n_ranks) for _ in range(2))
    next(batches := iter(begun))
    again.load_state_dict(begun.state_dict())
    assert [batch["x"].tolist() for batch in again] == [batch["x"].tolist() for batch in batches]


class _Numbers(Gathered):
    def __init__(self, n):
        self.x = torch.arange(n)

    def __len__(self):
        return len(self.x)

    def gather(self, index):
        return {"x": self.x[index]}
