"""GLUE: files as they are, labels checked, batches, fine-tuning from a checkpoint, metrics, the bag of words."""

from functools import partial

import pytest
import torch
from learning import share_left
from test_task_contract import quiet_trainer

from seqmix.data import GLUE
from seqmix.data.text.glue import _cut
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import Hydra
from seqmix.models import BidirectionalEncoder
from seqmix.tasks import AdamW, MaskedLM, SentenceClassification, SentenceRegression
from seqmix.tasks._bag_of_words import bag_of_words
from seqmix.tasks.sentences import class_metrics, load_encoder, score_metrics

ENCODER = partial(BidirectionalEncoder, d_model=8, n_layers=1, mixer=partial(Hydra, d_state=4, headdim=4), dropout=0.0)
SST2 = ["sentence\tlabel", '" a quote\t1', "no\t0", "naïve\t1"] + ["x\t0"] * 17
STSB = ["index\tsentence1\tsentence2\tscore", "0\tabc\td\t5.000", "1\te\tfghijk\t0.5"] + ["2\ta\tb\t2"] * 20


def _glue(folder, lines, name="SST-2", **options):
    path = folder / "glue" / name
    path.mkdir(parents=True, exist_ok=True)
    for file in ("train.tsv", "dev.tsv"):
        (path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {"SST-2": "sst2", "CoLA": "cola", "MRPC": "mrpc", "STS-B": "stsb"}[name]
    return GLUE(task, **{"max_len": 12, "batch_size": 4, "tokens": "bytes", "root": str(folder), **options})


def test_files_are_read_without_quoting(tmp_path):
    rows = _glue(tmp_path, SST2).examples("train")
    assert rows[:3] == [((b'" a quote',), 1), ((b"no",), 0), (("naïve".encode(),), 1)] and len(rows) == 20
    # no header; the third column is the verdict of a linguist
    assert _glue(tmp_path, ["gj04\t1\t\tIt works.", "gj04\t0\t*\tIt work."], "CoLA").examples("train") == [
        ((b"It works.",), 1),
        ((b"It work.",), 0),
    ]
    # a byte-order mark before the header
    lines = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t1\t2\ta b\tb a"]
    assert _glue(tmp_path, lines, "MRPC").examples("test") == [((b"a b", b"b a"), 1)]


def test_mnli_has_two_development_sets(tmp_path):
    (tmp_path / "glue" / "MNLI").mkdir(parents=True)
    for name, label in (("train", "neutral"), ("dev_matched", "entailment"), ("dev_mismatched", "contradiction")):
        lines = f"gold_label\tsentence2\tsentence1\n{label}\thypothesis\tpremise\n"
        (tmp_path / "glue" / "MNLI" / f"{name}.tsv").write_text(lines)
    for task, name, label in (("mnli", "MNLI", 0), ("mnli-mm", "MNLI-mm", 2)):
        data = GLUE(task, tokens="bytes", root=str(tmp_path))
        assert (data.name, data.n_classes) == (name, 3)
        assert data.examples("test") == [((b"premise", b"hypothesis"), label)]
        assert data.examples("train")[0][1] == 1


def test_batches(tmp_path):
    data = _glue(tmp_path, STSB, "STS-B", protocol="dev")
    batch = data._make()["test"].gather(torch.tensor([0, 1]))
    letters = [
        [1, *(ord(c) + 4 for c in left), 2, *(ord(c) + 4 for c in right), 2]
        for left, right in [("abc", "d"), ("e", "fghijk")]
    ]
    assert batch["tokens"].tolist() == [letters[0] + [0] * 3, letters[1]]
    assert batch["special"][0].tolist() == [t in (1, 2) for t in batch["tokens"][0]]
    assert batch["types"].tolist() == [[0] * 5 + [1] * 2 + [0] * 3, [0] * 3 + [1] * 7]
    assert batch["mask"].sum(1).tolist() == [7, 10] and batch["labels"].tolist() == [5, 0.5]
    assert (data.n_classes, data.name) == (1, "STS-B (validated on test)")


@pytest.mark.parametrize(
    ("lengths", "room", "want"), [((3, 9), 8, (3, 5)), ((9, 9), 8, (4, 4)), ((9,), 4, (4,)), ((2, 3), 9, (2, 3))]
)
def test_the_longer_sentence_is_cut(lengths, room, want):
    cut = [len(s) for s in _cut([list(range(n)) for n in lengths], room)]
    assert sum(cut) == sum(want) and max(cut) - max(want) <= 0


def test_a_tenth_is_held_out(tmp_path):
    splits = _glue(tmp_path, SST2)._make()
    assert [len(splits[s]) for s in ("train", "val", "test")] == [18, 2, 20]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("SST-2", ["sentence\tlabel", "a\t2"], "line 2: the label is '2'; it has to be one of 0, 1"),
        ("SST-2", ["sentence\tlabel", "a"], "line 2: 1 columns between tabs, 2 are needed; get a whole copy"),
        ("SST-2", ["text\tlabel", "a\t1"], "no column 'sentence' in its first line"),
        ("SST-2", ["sentence\tlabel"], "holds no example; get a whole copy"),
        ("STS-B", [STSB[0], "0\ta\tb\t6"], "the score is '6'; it has to be a number from 0 to 5"),
    ],
)
def test_bad_files(name, lines, message, tmp_path):
    with pytest.raises(DataError) as error:
        _glue(tmp_path, lines, name).examples("train")
    assert message in str(error.value)


def test_bad_options(tmp_path):
    with pytest.raises(ConfigError, match=r"vocab_size = 9 has no room for the 260 tokens of the vocabulary"):
        _glue(tmp_path, SST2, vocab_size=9).setup()
    with pytest.raises(ConfigError, match="tokens = 'wordpiece' needs the vocabulary of pre-training"):
        GLUE("sst2", tokens="wordpiece", vocabulary=None)
    with pytest.raises(ConfigError, match="the data has scores, not classes; use the task SentenceRegression"):
        SentenceClassification(ENCODER, 260, 1)
    with pytest.raises(ConfigError, match="the data has 3 classes, not scores; use the task SentenceClassification"):
        SentenceRegression(ENCODER, 260, 3)


@pytest.mark.parametrize(
    ("task", "name", "lines"),
    [
        (SentenceClassification, "SST-2", SST2),
        (SentenceRegression, "STS-B", STSB),
    ],
)
@pytest.mark.parametrize("pooler", [False, True])
def test_fine_tuning_learns(task, name, lines, pooler, tmp_path):
    data = _glue(tmp_path, lines, name, protocol="dev")
    made = task(partial(ENCODER, pooler=pooler), 260, data.n_classes, 12, dropout=0.0)
    data.setup()
    batch = data._splits["train"].gather(torch.arange(4))
    assert share_left(made, batch, 40, lr=0.02) < 0.2


@pytest.mark.parametrize("eval_batch_size", [1, 3, 64])
def test_metrics_are_over_all_examples(eval_batch_size, tmp_path):
    task = SentenceClassification(ENCODER, 260, 2, 12)
    data = _glue(tmp_path, SST2, eval_batch_size=eval_batch_size)
    (metrics,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    batch = data._splits["test"].gather(torch.arange(20))
    with torch.no_grad():
        want = class_metrics(batch["labels"], task.eval()(batch).argmax(-1), 2)
    assert metrics.pop("test_examples") == 20
    # logged in float32
    assert metrics == pytest.approx({f"test_{name}": value for name, value in want.items()}, rel=1e-5)


def test_starts_from_a_pre_trained_encoder(tmp_path):
    pretrained = MaskedLM(ENCODER, 260, 16)
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(pretrained)
    trainer.save_checkpoint(tmp_path / "mlm.ckpt")
    fresh = partial(ENCODER, pooler=True)(260)
    pooler = fresh.pooler["dense"].weight.clone()
    load_encoder(fresh, str(tmp_path / "mlm.ckpt"))
    for key, value in pretrained.model.bert.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert torch.equal(fresh.pooler["dense"].weight, pooler)

    task = SentenceClassification(ENCODER, 260, 2, 12, init_from=str(tmp_path / "mlm.ckpt"), optim=AdamW(lr=1e-9))
    quiet_trainer(tmp_path, max_steps=1).fit(task, _glue(tmp_path, SST2))
    for key, value in pretrained.model.bert.state_dict().items():
        torch.testing.assert_close(task.bert.state_dict()[key], value, rtol=0, atol=1e-6)

    with pytest.raises(ConfigError, match=r"is of another encoder: .*word_embeddings.weight is \(260, 8\) in it"):
        load_encoder(ENCODER(300), str(tmp_path / "mlm.ckpt"))
    with pytest.raises(ConfigError, match=r"encoder.layer.1.* is absent in it"):
        load_encoder(partial(ENCODER, n_layers=2)(260), str(tmp_path / "mlm.ckpt"))
    (tmp_path / "part.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ConfigError, match=r"init_from = .*part.ckpt' cannot be read .*damaged or no checkpoint"):
        load_encoder(torch.nn.Linear(1, 1), str(tmp_path / "part.ckpt"))
    with pytest.raises(ConfigError, match=r"init_from = 'gone' cannot be read .*; give a checkpoint of MaskedLM"):
        load_encoder(fresh, "gone")


def test_metrics_by_hand():
    truth, guess = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]), torch.tensor([1, 1, 0, 1, 0, 0, 0, 0])
    # true positives 2, false ones 1, missed 1, true negatives 4
    want = {"accuracy": 6 / 8, "f1": 4 / 6, "matthews": (2 * 4 - 1 * 1) / (3 * 3 * 5 * 5) ** 0.5}
    assert class_metrics(truth, guess, 2) == pytest.approx(want)
    scores = score_metrics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0]))
    assert scores["spearman"] == pytest.approx(1) and 0.8 < scores["pearson"] < 0.95
    assert score_metrics(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])) == {"spearman": 0.0, "pearson": 0.0}


def test_bag_of_words():
    train = [((b"Good, very good",), 1), ((b"bad",), 0), ((b"good",), 1), ((b"so bad",), 0)]
    labels, predicted, size = bag_of_words(train, [((b"GOOD!",), 1), ((b"a bad one",), 0)], True)
    assert labels.tolist() == predicted.tolist() == [1, 0] and size == 4 + 1
    # the words of the second sentence are others
    pairs = [((b"a", b"b"), 0.0), ((b"b", b"a"), 4.0)]
    labels, predicted, size = bag_of_words(pairs, pairs, False)
    assert predicted[0] < 2 < predicted[1] and size == 4 + 1


def test_sizes(real_data):
    real_data("glue")
    sizes = {"sst2": (67349, 872), "cola": (8551, 1043), "mrpc": (3668, 408), "rte": (2490, 277), "stsb": (5749, 1500)}
    for task, want in sizes.items():
        assert tuple(len(GLUE(task).examples(split)) for split in ("train", "test")) == want
