"""ListOps: the grammar, the values, the statistics of the benchmark, and a generator that can be interrupted."""

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.data import ListOps
from seqmix.data.sequences import _generated, listops
from seqmix.data.sequences._generated import generated
from seqmix.data.sequences.listops import SYMBOLS, draw_expression, evaluate
from seqmix.errors import ConfigError, DataError, WriteError

SHORT = {"min_length": 6, "max_length": 60, "max_depth": 4, "max_args": 5}
FULL = {"min_length": 501, "max_length": 1999, "max_depth": 10, "max_args": 10}


def _data(root, **options):
    return ListOps(**{"batch_size": 7, **SHORT, "n_train": 40, "n_val": 9, "n_test": 11, "root": str(root), **options})


def _value(words):
    """Value by Python's own means, from the text."""
    word = words.pop(0)
    if word.isdigit():
        return int(word), 1
    args, depth = [], 0
    while words[0] != "]":
        value, below = _value(words)
        args.append(value)
        depth = max(depth, below)
    words.pop(0)
    assert 2 <= len(args) <= 10
    value = {"[MIN": min, "[MAX": max, "[MED": lambda a: int(np.median(a)), "[SM": lambda a: sum(a) % 10}[word](args)
    return value, depth + 1


@pytest.mark.parametrize(("options", "n"), [(SHORT, 300), ({**SHORT, "max_depth": 2, "min_length": 4}, 50), (FULL, 20)])
def test_expressions_are_of_the_grammar(options, n):
    for i in range(n):
        expression, value = draw_expression(i, seed=3, **options)
        words = [SYMBOLS[b] for b in expression]
        assert options["min_length"] <= len(words) <= options["max_length"]
        found, depth = _value(words)
        assert found == value and not words and 2 <= depth <= options["max_depth"]


def test_the_median_is_rounded_down():
    assert [evaluate(2, v) for v in ([1, 2], [9, 8, 0], [7, 0, 9, 4], [0, 9])] == [1, 8, 5, 4]
    assert [evaluate(k, [7, 9, 8]) for k in (0, 1, 3)] == [7, 9, 4]


def _statistics(expressions, values):
    lengths = np.array([len(e) for e in expressions])
    symbols = np.bincount(np.concatenate([np.frombuffer(e, np.uint8) for e in expressions]), minlength=15)
    return lengths, symbols / symbols.sum(), np.bincount(values, minlength=10) / len(values)


def test_statistics_of_the_benchmark(real_data):
    """Labels, lengths and symbols of the released grammar, from 2,000 real rows against 1,500 of ours."""
    data = ListOps(path=str(real_data("lra_listops")))
    real = data._read(Path(data.path), "test")
    tokens, offsets = real.tokens.numpy().tobytes(), real.offsets.tolist()
    theirs = [tokens[a:b] for a, b in pairwise(offsets)]
    assert len(theirs) == 2000
    for expression, value in zip(theirs[:50], real.labels[:50].tolist(), strict=True):
        assert _value([SYMBOLS[b] for b in expression])[0] == value
    ours, values = zip(*(draw_expression(i, seed=0, **FULL) for i in range(1500)), strict=True)
    (len_t, sym_t, lab_t), (len_o, sym_o, lab_o) = _statistics(theirs, real.labels.tolist()), _statistics(ours, values)
    # four standard deviations of the difference of two shares
    slack = 4 * np.sqrt(lab_t * (1 - lab_t) * (1 / 2000 + 1 / 1500))
    assert (np.abs(lab_t - lab_o) < slack).all()
    assert 0.15 < lab_o[0] < 0.2 and lab_o.argmax() in (0, 9)
    assert np.abs(sym_t - sym_o).max() < 0.002
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(len_o, q) == pytest.approx(np.quantile(len_t, q), rel=0.07)


def test_batches(tmp_path):
    data = _data(tmp_path)
    assert (data.vocab_size, data.n_classes, data.max_len, data.pairs) == (16, 10, 60, False)
    data.setup()
    batch = data._splits["train"].gather(torch.arange(40))
    lengths = batch["mask"].sum(1)
    assert batch["tokens"].shape == (40, lengths.max()) and batch["tokens"].dtype == torch.int64
    assert ((batch["tokens"] == 0) == ~batch["mask"]).all()
    for i in range(40):
        expression, value = draw_expression(i, seed=0, **SHORT)
        assert batch["tokens"][i, : lengths[i]].tolist() == [b + 1 for b in expression]
        assert batch["labels"][i] == value
    assert [len(data._splits[s]) for s in ("train", "val", "test")] == [40, 9, 11]
    assert data.label_counts("test").tolist() == [
        Counter(draw_expression(i, seed=0, **SHORT)[1] for i in range(49, 60))[k] for k in range(10)
    ]
    # the longest of the batch, not of the data
    assert data._splits["train"].gather(lengths.argmin()[None])["tokens"].shape == (1, lengths.min())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_generated, "CHUNK", 8)
    files = []
    for workers in (1, 2):
        data = _data(tmp_path / str(workers), workers=workers)
        data.setup()
        (file,) = (tmp_path / str(workers) / "listops").iterdir()
        files.append((file.name, file.read_bytes()))
    assert files[0] == files[1]


def test_an_interrupted_generator_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_generated, "CHUNK", 8)
    drawn = []

    def draw(number, stop=True):
        if stop and number == 20:
            raise KeyboardInterrupt
        drawn.append(number)
        return bytes([number, 1 + number % 3]), number % 2

    with pytest.raises(KeyboardInterrupt):
        generated("some", {}, draw, 30, root=str(tmp_path), workers=1)
    (chunks,) = (tmp_path / "some").iterdir()
    assert sorted(p.name for p in chunks.iterdir()) == ["0.npz", "8.npz"]
    # half of a chunk, as a full disk leaves it, is drawn again
    (chunks / "8.npz").write_bytes((chunks / "8.npz").read_bytes()[:100])
    tokens, offsets, labels = generated("some", {}, partial(draw, stop=False), 30, root=str(tmp_path), workers=1)
    # 16 to 19 were in a chunk that was not whole
    assert drawn == [*range(20), *range(16, 30), *range(8, 16)]
    assert tokens.tolist() == [b for i in range(30) for b in (i, 1 + i % 3)]
    assert offsets.tolist() == list(range(0, 62, 2)) and labels.tolist() == [i % 2 for i in range(30)]
    assert [p.suffix for p in (tmp_path / "some").iterdir()] == [".safetensors"]
    # a second time nothing is drawn; another recipe is another file
    generated("some", {}, draw, 30, root=str(tmp_path), workers=1)
    generated("some", {"a": 1}, partial(draw, stop=False), 9, root=str(tmp_path), workers=1)
    assert len(drawn) == 42 + 9 and len(list((tmp_path / "some").iterdir())) == 2


def test_repetitions_are_replaced(tmp_path):
    tokens, _, labels = generated("some", {}, lambda i: (bytes([i // 2]), i % 2), 10, root=str(tmp_path), workers=1)
    assert tokens.tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9] and labels.tolist() == [0] * 10
    with pytest.raises(
        ConfigError, match=r"^3 different examples were found among 100, 5 are asked for; ask for fewer"
    ):
        generated("few", {}, lambda i: (bytes([i % 3]), 0), 5, root=str(tmp_path), workers=1)


@pytest.mark.parametrize("damage", ["short", "changed"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    _data(tmp_path).setup()
    (file,) = (tmp_path / "listops").iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content[:-9] if damage == "short" else content)
    with pytest.raises(DataError, match=r"is damaged.*; delete it, to have it made"):
        _data(tmp_path).setup()


def test_the_official_files(tmp_path):
    rows = {"train": ["( ( ( [MAX 2 ) 9 ) ] )\t9", "( ( ( [SM 7 ) ( ( ( [MIN 4 ) 6 ) ] ) ) ] )\t1"], "val": ["3\t3"]}
    rows["test"] = rows["train"][:1]
    for split, lines in rows.items():
        (tmp_path / f"basic_{split}.tsv").write_text("\n".join(["Source\tTarget", *lines]) + "\n")
    data = ListOps(path=str(tmp_path), max_length=8, min_length=4)
    data.setup()
    batch = data._splits["train"].gather(torch.tensor([1, 0]))
    assert [SYMBOLS[t - 1] for t in batch["tokens"][0]] == ["[SM", "7", "[MIN", "4", "6", "]", "]"]
    assert batch["tokens"][1].tolist() == [12, 3, 10, 15, 0, 0, 0] and batch["labels"].tolist() == [1, 9]

    for text, message in (
        ("[MAX 2 x ]\t2", "basic_val.tsv, line 2: 'x' is not a symbol of ListOps; give its basic_*.tsv"),
        ("[MAX 2 3 ]\t10", "basic_val.tsv, line 2: the target is '10'; it has to be 0 to 9"),
        ("\t1", "basic_val.tsv, line 2: the expression has 0 tokens; 1 to max_length = 8 are allowed"),
        ("", f"{tmp_path / 'basic_val.tsv'} holds no expression; get a whole copy"),
    ):
        (tmp_path / "basic_val.tsv").write_text(f"Source\tTarget\n{text}\n")
        with pytest.raises(DataError) as error:
            ListOps(path=str(tmp_path), max_length=8, min_length=4).setup()
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_val": 0}, "n_val must be at least 1, got 0; set data.n_val to a positive number"),
        ({"max_args": 1}, "max_depth = 4 and max_args = 1 leave no operation; set both to 2 or more"),
        (
            {"max_depth": 2, "min_length": 8},
            "no expression of max_depth = 2 and max_args = 5 has min_length = 8 to max_length = 60 tokens; the "
            "shortest has 4, the longest 7",
        ),
        ({"data_seed": -1}, "data_seed must not be negative, got -1; set data.data_seed to 0 or more"),
    ],
)
def test_options_out_of_range(options, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        _data(tmp_path, **options)
    assert str(error.value) == message


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot be written: Not a directory; free it, or set data.root"):
        _data(tmp_path / "file").setup()


def test_expressions_that_are_hardly_ever_drawn_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"max_depth = 60 and max_args = 10 have \de\+\d\d tokens on average"):
        ListOps(max_depth=60)
    monkeypatch.setattr(listops, "_TRIES", 20)
    with pytest.raises(ConfigError, match="none of 20 expressions of max_depth = 3 and max_args = 2 has 10 to 10"):
        [draw_expression(i, seed=0, min_length=10, max_length=10, max_depth=3, max_args=2) for i in range(200)]
