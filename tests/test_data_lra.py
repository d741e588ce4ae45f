"""Text, retrieval and images: bytes as they are, nothing of the test in the choice, one clear error for bad files."""

import gzip
import io
import json
import os
import pickle
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from seqmix.data import LRAImage, LRARetrieval, LRAText
from seqmix.data.sequences.lra import gray
from seqmix.errors import ConfigError, DataError


def _rows(n):
    return [{"text": f"review {i} \u00e9\u4e2d" + "x" * i, "label": i % 2} for i in range(n)]


def _imdb(root, train=None, test=None, pack=False):
    (root / "imdb").mkdir(exist_ok=True)
    for name, rows in (("train", train or _rows(20)), ("test", test or _rows(7))):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path = root / "imdb" / f"{name}.jsonl"
        (path.with_name(f"{path.name}.gz") if pack else path).write_bytes(gzip.compress(text) if pack else text)
    return str(root)


def _texts(data, split):
    batch = data._splits[split].gather(torch.arange(len(data._splits[split])))
    lengths = batch["mask"].sum(-1)
    return [bytes((t[:n] - 1).tolist()) for t, n in zip(batch["tokens"], lengths, strict=True)], batch["labels"]


@pytest.mark.parametrize("layout", ["jsonl", "jsonl.gz", "aclImdb"])
def test_reviews_are_bytes_and_split_once(layout, tmp_path):
    if layout == "aclImdb":
        for split, n in (("train", 20), ("test", 7)):
            for i, row in enumerate(_rows(n)):
                folder = tmp_path / "aclImdb" / split / ("neg", "pos")[row["label"]]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{i:02}_1.txt").write_bytes(row["text"].encode())
    else:
        _imdb(tmp_path, pack=layout == "jsonl.gz")
    data = LRAText(64, 4, root=str(tmp_path))
    assert (data.name, data.vocab_size, data.n_classes, data.max_len, data.pairs) == ("LRAText", 257, 2, 64, False)
    data.setup()
    found = {split: _texts(data, split) for split in ("train", "val", "test")}
    assert [len(found[s][0]) for s in ("train", "val", "test")] == [18, 2, 7]
    train, test = ({row["text"].encode(): row["label"] for row in _rows(n)} for n in (20, 7))
    assert {*found["train"][0], *found["val"][0]} == set(train) and set(found["test"][0]) == set(test)
    for split in found:
        texts, labels = found[split]
        assert labels.tolist() == [train[t] for t in texts]
    other = LRAText(64, root=str(tmp_path), split_seed=1)
    other.setup()
    assert _texts(other, "val")[0] != found["val"][0] and _texts(other, "test")[0] == found["test"][0]


def test_the_protocol_of_the_benchmark_is_named(tmp_path):
    data = LRAText(9, protocol="lra", root=_imdb(tmp_path))
    data.setup()
    assert data.name == "LRAText (validated on test)"
    assert _texts(data, "val")[0] == _texts(data, "test")[0] == [b"review %d " % i for i in range(7)]
    assert len(data._splits["train"]) == 20 and data.label_counts("test").tolist() == [4, 3]
    with pytest.raises(ConfigError, match=r"^protocol = 'old' is not known; use one of held-out, lra$"):
        LRAText(protocol="old")


def test_broken_utf8_is_kept(tmp_path):
    root = _imdb(tmp_path)
    (tmp_path / "imdb" / "test.jsonl").write_bytes(b'{"text": "a\xff\xc3b \\u00e9", "label": 1}\n')
    data = LRAText(root=root)
    data.setup()
    assert _texts(data, "test")[0] == [b"a\xff\xc3b \xc3\xa9"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "", "label": 1}', "train.jsonl, line 2: the text is empty; leave it out"),
        ('{"text": "a", "label": 2}', "train.jsonl, line 2: the label is 2; it has to be 0 to 1"),
        ('{"text": "a", "label": -1}', "train.jsonl, line 2: the label is -1; it has to be 0 to 1"),
        ('{"text": "a"}', "train.jsonl, line 2: no JSON object with 'text' and 'label' ('label'); get a whole copy"),
        ('{"text": "a', "train.jsonl, line 2: no JSON object with 'text' and 'label' (.*); get a whole copy"),
    ],
)
def test_a_bad_line_of_text(line, message, tmp_path):
    root = _imdb(tmp_path)
    (tmp_path / "imdb" / "train.jsonl").write_text('{"text": "good", "label": 1}\n' + line)
    with pytest.raises(DataError, match=re.escape(message).replace(r"\(\.\*\)", ".*")):
        LRAText(root=root).setup()


def test_short_and_missing_files_of_text(tmp_path):
    root = _imdb(tmp_path, pack=True)
    path = tmp_path / "imdb" / "test.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"^test.jsonl.gz in .* is truncated or no gzip file .*; get a whole copy$"):
        LRAText(root=root).setup()


def test_nothing_local_and_no_network(tmp_path, monkeypatch):
    def refuse(name, split):
        raise ConnectionError(f"no connection to {name}")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    for data, remedy in (
        (LRAText(root=str(tmp_path)), r"put imdb/train.jsonl\(.gz\) or the folder aclImdb into"),
        (LRAImage(root=str(tmp_path)), r"put cifar-10-batches-py or cifar10_jpeg/train.tar.gz into"),
    ):
        with pytest.raises(DataError, match=rf"cannot be loaded through datasets \(no connection.*\); {remedy}"):
            data.setup()


def test_through_datasets(tmp_path, monkeypatch):
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    rows = {"stanfordnlp/imdb": _rows(20), "uoft-cs/cifar10": [{"img": image, "label": i % 10} for i in range(20)]}
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: rows[name])
    text, pictures = LRAText(root=str(tmp_path)), LRAImage(root=str(tmp_path))
    assert text.label_counts("test").tolist() == [10, 10] and pictures.label_counts("test").tolist() == [2] * 10


def test_pairs(tmp_path):
    for name, rows in {"train": 3, "eval": 1, "test": 2}.items():
        lines = [b"%d.0\tid\tid\tfirst %d\tsecond %d \xff" % (i % 2, i, i) for i in range(rows)]
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_bytes(b"\n".join(lines) + b"\n")
    data = LRARetrieval(str(tmp_path), 9, 2)
    assert data.pairs
    batch = next(iter(data.test_dataloader()))
    assert batch["tokens"].shape == batch["mask"].shape == (2, 2, 9)
    assert bytes((batch["tokens"][1, 0, :7] - 1).tolist()) == b"first 1" and batch["mask"][1, 0].sum() == 7
    assert bytes((batch["tokens"][1, 1] - 1).tolist()) == b"second 1 " and batch["labels"].tolist() == [0, 1]

    (tmp_path / "new_aan_pairs.train.tsv").write_bytes(b"1\tid\ttext\n")
    with pytest.raises(DataError, match=r"^new_aan_pairs.train.tsv, line 1: 3 columns between tabs, 5 are needed; get"):
        LRARetrieval(str(tmp_path)).setup()
    (tmp_path / "new_aan_pairs.train.tsv").write_bytes(b"3\tid\tid\tone\ttwo\n")
    with pytest.raises(DataError, match=r"^new_aan_pairs.train.tsv, line 1: the label is '3'; it has to be 0 to 1$"):
        LRARetrieval(str(tmp_path)).setup()
    with pytest.raises(
        DataError, match=r"may not be passed on: take the file from lra_release.gz .* and set data.path"
    ):
        LRARetrieval(str(tmp_path / "none")).setup()


def _pictures(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def _batches(folder, images, labels, names):
    folder.mkdir(exist_ok=True)
    for name, image, label in zip(
        names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True
    ):
        content = {b"data": image.transpose(0, 3, 1, 2).reshape(len(image), -1), b"labels": label.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def test_images_of_the_publisher(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    images, labels = _pictures(20, 0), np.arange(20) % 10
    _batches(folder, images, labels, [f"data_batch_{i}" for i in range(1, 6)])
    _batches(folder, images[:3], labels[:3], ["test_batch"])
    data = LRAImage(root=str(tmp_path), eval_batch_size=3)
    assert (data.vocab_size, data.n_classes, data.max_len) == (256, 10, 1024)
    batch = next(iter(data.test_dataloader()))
    want = np.rint(0.2989 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2])[:3].reshape(3, 1024)
    assert np.array_equal(batch["tokens"].numpy(), want) and batch["labels"].tolist() == [0, 1, 2]
    assert [len(data._splits[s]) for s in ("train", "val", "test")] == [18, 2, 3] and "mask" not in batch

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": os.system, b"labels": []}))
    with pytest.raises(DataError, match=r"is not a batch of CIFAR-10 \(it names \w+.system\); get a whole copy"):
        LRAImage(root=str(tmp_path)).setup()


def test_images_in_archives(tmp_path):
    (tmp_path / "cifar10_jpeg").mkdir()
    images = _pictures(20, 1)
    for split, n in (("train", 20), ("test", 10)):
        with tarfile.open(tmp_path / "cifar10_jpeg" / f"{split}.tar.gz", "w:gz") as tar:
            for i in range(n):
                content = io.BytesIO()
                Image.fromarray(images[i]).save(content, "PNG")
                member = tarfile.TarInfo(f"{split}/class{i % 10}/{i:04}.png")
                member.size = content.tell()
                content.seek(0)
                tar.addfile(member, content)
    data = LRAImage(root=str(tmp_path))
    data.setup()
    batch = data._splits["test"].gather(torch.tensor([4]))
    assert batch["labels"].tolist() == [4] and bytes(batch["tokens"][0].tolist()) == gray(images[4])
    path = tmp_path / "cifar10_jpeg" / "test.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"is truncated or no archive of images .*; get a whole copy"):
        LRAImage(root=str(tmp_path)).setup()


def test_the_real_reviews(real_data):
    real_data("imdb")
    data = LRAText(1024)
    texts, labels = data._read("test")
    assert len(texts) == 25000 and sum(labels) == 12500 and max(map(len, texts)) == 1024


@pytest.mark.slow
def test_the_real_images(real_data):
    pixels, labels = LRAImage(root=str(real_data("cifar10_jpeg").parent))._read("test")
    assert len(pixels) == 10000 and np.bincount(labels).tolist() == [1000] * 10
    # the mean of the gray images that S4 normalizes by, in steps of 1 / 255
    assert np.frombuffer(b"".join(pixels), np.uint8).mean() == pytest.approx(122.6, abs=1.5)
