"""Token prediction: it learns, scores asked positions only, counts them exactly, and its checkpoints load."""

from functools import partial

import pytest
import torch
from learning import share_left, step
from test_task_contract import STILL, quiet_trainer
from torch import nn
from torch.nn import functional as F

from seqmix.data.sequences.recall import AssociativeRecall, Copying
from seqmix.errors import ConfigError
from seqmix.mixers import Attention, Dense, FNet, Identity, LongVQ, Mamba, SepConv, list_mixers, mixer_facts
from seqmix.tasks import AdamW, TokenPrediction

SMALL = {"d_model": 8, "n_layers": 2}


def _data(**options):
    return Copying(4, 3, 5, **{"batch_size": 16, "n_train": 40, "n_val": 9, "n_test": 23, **options})


@pytest.mark.parametrize("name", list_mixers())
def test_one_batch_is_learned_by_heart(name):
    cls, example = mixer_facts(name).cls, mixer_facts(name).examples[0]
    task = TokenPrediction(partial(cls, **example), 9, 11, d_model=8, n_layers=1)
    batch = {"tokens": torch.randint(9, (2, 11)), "targets": torch.randint(9, (2, 11))}
    batch["targets"][:, ::2] = -100
    assert share_left(task, batch, 40, lr=0.02) < 0.5


@pytest.mark.parametrize("eval_batch_size", [1, 7, 64])
def test_metrics_are_over_every_asked_position(eval_batch_size, tmp_path):
    """Sums divided by their count: a ragged last batch, or one that asks more, weighs what its answers weigh."""
    task = TokenPrediction(Dense, 6, 11, **SMALL)
    data = _data(eval_batch_size=eval_batch_size)
    data.setup()
    # one sequence asks for one answer only, another for none
    data._splits["test"].pair[0, 1, :-1] = -100
    data._splits["test"].pair[1, 1] = -100
    (metrics,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    batch = data._splits["test"].gather(torch.arange(23))
    with torch.no_grad():
        scores = task(batch["tokens"])
    asked = batch["targets"] != -100
    assert metrics["test_answers"] == asked.sum() == 21 * 3 + 1
    loss = F.cross_entropy(scores[asked].double(), batch["targets"][asked])
    assert metrics["test_loss"] == pytest.approx(float(loss), rel=1e-6)
    right = (scores.argmax(-1) == batch["targets"])[asked]
    assert metrics["test_accuracy"] == pytest.approx(float(right.double().mean()), rel=1e-6)
    # a second pass starts from zero
    assert quiet_trainer(tmp_path).test(task, data, verbose=False) == [metrics]
    assert task.monitor == "val_loss"
    (validated,) = quiet_trainer(tmp_path).validate(task, data, verbose=False)
    assert list(validated) == ["val_loss", "val_accuracy"]


def test_training_loss_by_hand():
    task = TokenPrediction(FNet, 6, 11, **SMALL)
    batch = {"tokens": torch.randint(6, (3, 11)), "targets": torch.full((3, 11), -100)}
    batch["targets"][0, 4], batch["targets"][2, 9], batch["targets"][2, 10] = 5, 1, 0
    log_p = task(batch["tokens"]).log_softmax(-1)
    want = -(log_p[0, 4, 5] + log_p[2, 9, 1] + log_p[2, 10, 0]) / 3
    torch.testing.assert_close(step(task, batch), want)

    batch["targets"].fill_(-100)
    loss = step(task, batch)
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_what_mixers_add_to_the_loss_is_added():
    task = TokenPrediction(partial(LongVQ, d_qk=6, n_codes=8, window=3, commitment=1.0), 6, 11, **SMALL)
    batch = {"tokens": torch.randint(6, (3, 11)), "targets": torch.randint(6, (3, 11))}
    loss = step(task, batch)
    added = sum(m.auxiliary() for m in task.modules() if isinstance(m, LongVQ))
    scores = task(batch["tokens"])
    torch.testing.assert_close(loss - added, F.cross_entropy(scores.flatten(0, 1), batch["targets"].flatten()))
    assert added > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    """Without learned positions a padded sequence is scored as it is alone."""
    task = TokenPrediction(Attention, 6, 9, positions=False, **SMALL).eval()
    tokens, targets = torch.randint(6, (1, 7)), torch.randint(6, (1, 7))
    pad = (2, 0) if side == "left" else (0, 2)
    batch = {
        "tokens": F.pad(tokens, pad, value=3),
        "targets": F.pad(targets, pad, value=-100),
        "mask": F.pad(torch.ones(1, 7, dtype=torch.bool), pad),
    }
    torch.testing.assert_close(step(task, batch), step(task, {"tokens": tokens, "targets": targets}))
    kept = task.predict_step(batch, 0)["predicted"][batch["mask"]]
    assert torch.equal(kept, task(tokens).argmax(-1).flatten())


@pytest.mark.parametrize(("positions", "tied"), [(True, True), (True, False), (False, True)])
def test_embeddings_and_head(positions, tied):
    task = TokenPrediction(Identity, 7, 11, positions=positions, tied=tied, channel_mixer=None, **SMALL)
    # two tables of rows of width 8 or three, beside three norms
    norms = 3 * 2 * 8
    rows = {(True, True): 7 + 11, (True, False): 7 + 11 + 7, (False, True): 7}[positions, tied]
    assert sum(p.numel() for p in task.parameters()) == 8 * rows + norms
    assert (task.model.head.weight is task.model.embed.weight) == tied
    # a blind stack tells places apart by their embeddings alone
    scores = task(torch.full((1, 11), 3))
    assert torch.equal(scores[0, 0], scores[0, 1]) != positions


def test_a_causal_stack_is_a_causal_language_model():
    """With the next token as target, no score depends on what follows."""
    task = TokenPrediction(Mamba, 7, 11, layers=[Mamba, partial(Attention, causal=True)], **SMALL).eval()
    tokens = torch.randint(7, (2, 11))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    before, after = task(tokens), task(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize(("mixer", "solved"), [(partial(Attention, n_heads=1), True), (Identity, False)])
def test_attention_recalls_and_identity_does_not(mixer, solved, tmp_path):
    data = AssociativeRecall(16, 2, 8, n_train=4000, n_val=64, n_test=500, seed=0)
    layers = [partial(SepConv, kernel_size=3), mixer, mixer]
    task = TokenPrediction(
        mixer,
        16,
        8,
        layers=layers,
        d_model=32,
        n_layers=3,
        channel_mixer=None,
        optim=AdamW(lr=0.01, weight_decay=0.1, warmup=0.1),
    )
    trainer = quiet_trainer(tmp_path, max_epochs=4, gradient_clip_val=1.0)
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    assert (metrics["test_accuracy"] > 0.98) if solved else (metrics["test_accuracy"] < 0.6)


def test_checkpoints_hold_plain_values(tmp_path):
    task = TokenPrediction(Identity, 6, 11, layers=[FNet, Dense], patience=7, **SMALL)
    assert not {"mixer", "layers", "channel_mixer"} & task.hparams.keys() and task.hparams["patience"] == 7
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    loaded = TokenPrediction.load_from_checkpoint(tmp_path / "plain.ckpt", mixer=Identity, layers=[FNet, Dense])
    assert (loaded.patience, loaded.monitor) == (7, "val_loss")
    tokens = torch.randint(6, (2, 11))
    assert torch.equal(loaded.eval()(tokens), task.eval()(tokens))
    with pytest.raises(ConfigError, match=r"the checkpoint is of another model: .* is .* in it and .* here"):
        TokenPrediction.load_from_checkpoint(tmp_path / "plain.ckpt", mixer=Mamba)


def test_early_stopping_and_schedule(tmp_path):
    task = TokenPrediction(Identity, 6, 11, optim=STILL, patience=2, **SMALL)
    trainer = quiet_trainer(tmp_path, max_epochs=9)
    trainer.fit(task, _data())
    # the first validation stays the best
    assert trainer.current_epoch == 3

    task = TokenPrediction(Identity, 6, 11, **SMALL)
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(task, _data())
    # 40 sequences in batches of 16, twice
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_data_that_asks_nothing_is_refused(tmp_path):
    data = _data()
    data.setup()
    data._splits["test"].pair[:, 1] = -100
    with pytest.raises(ConfigError, match="the test batches ask nothing: every target is -100; check the datamodule"):
        quiet_trainer(tmp_path).test(TokenPrediction(Identity, 6, 11, **SMALL), data, verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": None}, "max_len is needed: positions = True stores one embedding per position; set max_len=512"),
        ({"patience": 0}, "patience must be at least 1, got 0; use null to train to the end"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        TokenPrediction(Identity, 6, **{"max_len": 11, **options})
    assert str(error.value) == message


def test_bfloat16():
    task = TokenPrediction(Attention, 6, 11, **SMALL).bfloat16()
    batch = {"tokens": torch.randint(6, (3, 11)), "targets": torch.randint(6, (3, 11))}
    loss = step(task, batch)
    loss.backward()
    assert loss.dtype == torch.float32 and nn.utils.get_total_norm(p.grad for p in task.parameters()) > 0
