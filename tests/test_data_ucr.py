"""Labeled series: the .ts format and what is wrong with a file, splits, padding, normalization."""

import gzip
import os
import random

import numpy as np
import pytest
import torch

from seqmix.data import UCR, SeriesFiles
from seqmix.data.series.labeled import Preparation, hold_out
from seqmix.data.series.ts_file import read_ts
from seqmix.errors import ConfigError, DataError
from seqmix.testing import check_data

HEADER = (
    "#a comment\n@problemName Two\n@timeStamps false\n@univariate false\n@equalLength false\n@classLabel true a b\n"
)
ROWS = ["1,2,3:4,5,6:a", "", "# another", "7, ?,9e0 : NaN,11,12 : b", "1:2:a", "5,5:5,5:b"]
TEXT = HEADER + "@data\n" + "\n".join(ROWS) + "\n"


def test_series_of_any_lengths_are_read():
    for content in (TEXT.encode(), b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()):
        found = read_ts(content, "x.ts")
        assert found.class_names == ("a", "b") and found.labels == ["a", "b", "a", "b"]
        assert [x.shape for x in found.series] == [(3, 2), (3, 2), (1, 2), (2, 2)]
        np.testing.assert_array_equal(found.series[1], [[7, np.nan], [np.nan, 11], [9, 12]])


def test_labels_may_be_absent():
    text = (
        TEXT.replace("@classLabel true a b\n", "").replace(":a\n", "\n").replace(" : b\n", "\n").replace(":b\n", "\n")
    )
    found = read_ts(text.encode(), "x.ts", labeled=False)
    assert not found.labels and [x.shape for x in found.series] == [(3, 2), (3, 2), (1, 2), (2, 2)]


def _with(row="1,2:3,4:a", **lines):
    """The file with another line of the header, or one row more."""
    header = HEADER
    for key, value in lines.items():
        header = "".join(x for x in header.splitlines(True) if key.lower() not in x.lower())
        header += f"@{key} {value}\n"
    return f"{header}@data\n1,2:3,4:a\n{row}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.ts: is empty; give a header, @data"),
        (HEADER, "x.ts: has no @data; give a header, @data"),
        (HEADER + "@data\n", "x.ts: has no series after @data; give one row"),
        ("1,2:a\n" + TEXT, "x.ts, line 1: stands before @data; begin the file with"),
        (_with("1,2:3,4:c"), r"line 9: class label 'c' is not declared, @classLabel has a, b; declare it"),
        (_with("1,2"), "line 9: has no class label; end the row with : and one of a, b"),
        (_with("1,2:3,4:"), "line 9: has no class label"),
        (_with("1,2:a"), "line 9: has 1 channel, the first row has 2; give every series the same channels"),
        (_with("1,2:3:a"), r"line 9: channels of \[2, 1\] time steps; make them of one length"),
        (
            _with("1,2:3,four:a"),
            "line 9: 'four' in channel 2, time step 2, is not a finite number; write",
        ),
        (_with("1,2:,4:a"), "line 9: '' in channel 2, time step 1, is not a finite number"),
        (_with("1,2:-inf,4:a"), "line 9: '-inf' in channel 2, time step 1, is not a finite number"),
        (_with("(2020-01-01,1),(2020-01-02,2):3,4:a"), "is not a finite number"),
        (_with(timeStamps="true"), r"line 6: has time-stamped values \(@timeStamps true\); write the values alone"),
        (_with(classLabel="false"), r"has no class labels \(@classLabel true is missing\)"),
        (_with(classLabel="true a a"), r"line 6: declares the classes \['a', 'a'\]; name every class once"),
        (_with(targetlabel="true"), r"line 7: holds numbers to predict \(@targetlabel true\); use a file with"),
        (_with(univariate="maybe"), "line 6: @univariate is 'maybe'; write true or false"),
        (_with(univariate="true"), "line 8: has 2 channels, the header says 1; separate channels by :"),
        (_with(dimensions="x"), "line 7: @dimensions is 'x'; write a whole number"),
        (_with(dimensions="3"), "line 9: has 2 channels, the header says 3"),
        (_with(seriesLength="3"), "line 9: has 2 time steps, @seriesLength says 3; correct the row"),
        (_with("1:3:a", equalLength="true"), "line 9: has 1 time step, the first row has 2; correct the row, or write"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(text, message):
    with pytest.raises(DataError, match=message):
        read_ts(text.encode(), "x.ts")


def test_whatever_the_bytes_nothing_else_is_raised():
    draw = random.Random(0)
    for _ in range(400):
        content = bytearray(TEXT.encode())
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(content))
            content[at : at + draw.randint(0, 9)] = bytes(
                draw.choices(b":,?@#\n ae-.0_\xff\x00\xe2", k=draw.randint(0, 5))
            )
        try:
            found = read_ts(bytes(content), "x.ts")
        except DataError:
            continue
        assert len(found.series) == len(found.labels) > 0


@pytest.fixture
def files(tmp_path):
    """Twelve training and three test series of two channels and two classes, lengths 2 to 4."""
    rows = [
        f"{','.join(map(str, range(k, k + 2 + k % 3)))}:{','.join('5' * (2 + k % 3))}:{'ab'[k % 2]}" for k in range(15)
    ]
    train, test = tmp_path / "Two_TRAIN.ts", tmp_path / "Two_TEST.ts.gz"
    train.write_text(HEADER + "@data\n" + "\n".join(rows[:12]))
    test.write_bytes(gzip.compress((HEADER + "@data\n" + "\n".join(rows[12:])).encode()))
    return train, test


def test_files_become_batches(files):
    data = SeriesFiles(*map(str, files), batch_size=4, val_share=0.25, normalize="none")
    check_data(data)
    assert (data.name, data.class_names, data.n_channels, data.n_classes, data.max_len) == ("Two", ("a", "b"), 2, 2, 4)
    assert data.label_counts("train").tolist() == [4, 4] and data.label_counts("val").tolist() == [2, 2]
    (batch,) = data.test_dataloader()
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items()} == {
        "x": ((3, 4, 2), torch.float32),
        "mask": ((3, 4), torch.bool),
        "labels": ((3,), torch.int64),
    }
    assert batch["mask"].sum(1).tolist() == [2, 3, 4] and batch["labels"].tolist() == [0, 1, 0]
    assert batch["x"][0].tolist() == [[12, 5], [13, 5], [0, 0], [0, 0]]
    # nothing is held out, and training series are validated on
    data = SeriesFiles(*map(str, files), val_share=0.0)
    assert data.label_counts("val").tolist() == data.label_counts("train").tolist() == [6, 6]


@pytest.mark.parametrize("how", ["none", "series", "train"])
def test_normalization_fits_training_series_and_fills_what_is_missing(how):
    train = [np.array([[1.0, 2, 7], [3, np.nan, 7]]), np.array([[5.0, 4, 7]])]
    prepare = Preparation.learn(train, how)
    (x,) = prepare([np.array([[np.nan, np.nan, 9], [1.0, np.nan, 9], [np.nan, np.nan, 9], [3.0, np.nan, 9]])])
    filled = np.array([[1.0, 3, 9], [1, 3, 9], [2, 3, 9], [3, 3, 9]])
    if how == "none":
        want = filled
    elif how == "series":
        want = np.stack([(filled[:, 0] - 1.75) / np.std([1, 1, 2, 3]), np.zeros(4), np.zeros(4)], 1)
    else:
        want = (filled - [3, 3, 7]) / [np.std([1, 3, 5]), 1, 1]
    np.testing.assert_allclose(x, want, atol=1e-12)


def test_validation_takes_a_share_of_every_class_that_can_spare_one():
    labels = np.array([0] * 10 + [1] * 2 + [2])
    out = hold_out(labels, 0.2, 0)
    assert [int(out[labels == k].sum()) for k in range(3)] == [2, 1, 0]
    assert not np.array_equal(out, hold_out(labels, 0.2, 1))
    with pytest.raises(ConfigError, match=r"val_share = 0.2: every class has one training series, none can be"):
        hold_out(np.arange(3), 0.2, 0)


def test_a_test_file_that_does_not_go_with_the_training_file_is_refused(files, tmp_path):
    other = tmp_path / "other.ts"
    for text, message in (
        (
            _with("1,2:3,4:c", classLabel="true a c"),
            "Two: the test file has 1 series of class 'c', the training",
        ),
        (HEADER + "@data\n1,2:a\n", "series of 2 channels in the training file and of 1 in the test file"),
    ):
        other.write_text(text)
        with pytest.raises(DataError, match=message):
            SeriesFiles(str(files[0]), str(other))
    other.write_text(_with("3,4:5,6:a"))
    with pytest.raises(DataError, match="the training file has the class 'a' alone"):
        SeriesFiles(str(other), str(other))
    with pytest.raises(DataError, match=r"no\.ts not found in"):
        SeriesFiles(str(tmp_path / "no.ts"), str(other))


def test_archive_sets_are_found_below_the_data_folder(files, tmp_path):
    folder = tmp_path / "root" / "ucr_uea"
    with pytest.raises(DataError, match=r"Two_TRAIN.ts and Two_TEST.ts not found below .*; download Two from https"):
        UCR("Two", root=str(tmp_path / "root"))
    for name in ("Two", "GunPoint"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}_TRAIN.ts").write_bytes(files[0].read_bytes())
        (folder / name / f"{name}_TEST.ts").write_bytes(gzip.decompress(files[1].read_bytes()))
    data = UCR("Two", root=str(tmp_path / "root"))
    assert (data.n_classes, data.n_channels, data.max_len) == (2, 2, 4)
    data = UCR("GunPoint", root=str(tmp_path / "root"))
    assert (data.n_classes, data.n_channels, data.max_len) == (2, 1, 150)
    with pytest.raises(DataError, match="GunPoint is not the published data set: it has 2 classes, 2 channels and"):
        data.setup()


@pytest.mark.skipif("SEQMIX_DATA" not in os.environ, reason="SEQMIX_DATA is not set")
@pytest.mark.parametrize("name", ["ItalyPowerDemand", "JapaneseVowels"])
def test_published_sets(name):
    data = UCR(name)
    data.setup()
    counts = {"ItalyPowerDemand": (67, 1029), "JapaneseVowels": (270, 370)}[name]
    assert tuple(len(data._splits["train"].labels[a]) for a in (slice(0, counts[0]), slice(counts[0], None))) == counts
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape[2] == data.n_channels and ("mask" in batch) == (name == "JapaneseVowels")
    assert abs(float(data._splits["train"].values.mean())) < 0.2
