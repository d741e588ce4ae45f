"""Corpora: no token lost, doubled or mixed with another document; tokens and back; files made once; bad input."""

import gzip
import os

import numpy as np
import pytest
import torch

from seqmix.data import TextFiles
from seqmix.data._tokenizer import CLS, SEP, Bytes, Characters, WordPiece, train_vocabulary
from seqmix.errors import ConfigError, DataError

TEXTS = [b"= a =\nto be, or not\n", b"= b =\nx\n", b"= c =\nthat is the question\n"]


def _corpus(folder, texts=TEXTS, **options):
    paths = [folder / f"{split}.txt" for split in ("train", "val", "test")]
    for path in paths:
        # files that were not changed are not read again
        if not path.exists():
            path.write_bytes(b"".join(texts))
    given = {"document": "= ", "max_len": 7, "batch_size": 2, "cache": str(folder / "cache")}
    return TextFiles(*map(str, paths), **{**given, **options})


def _all(data, batch_size):
    pieces = data._make()["train"]
    return [pieces.gather(i) for i in torch.arange(len(pieces)).split(batch_size)]


@pytest.mark.parametrize("max_len", [3, 7, 19, 200])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_causal_pieces(max_len, batch_size, tmp_path):
    """Every token of a document is asked for once, after the tokens before it; the bytes add up."""
    given, asked, n_bytes = [], [], 0
    for batch in _all(_corpus(tmp_path, max_len=max_len), batch_size):
        assert batch["tokens"].shape[1] <= max_len
        n_bytes += int(batch["bytes"].sum())
        for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
            kept = targets != -100
            given += tokens[kept].tolist()
            asked += targets[kept].tolist()
            assert torch.equal(tokens[kept][1:], targets[kept][:-1]) and not tokens[~kept].any()
    want = [[CLS, *(b + 4 for b in text), SEP] for text in TEXTS]
    assert given == [t for document in want for t in document[:-1]]
    assert asked == [t for document in want for t in document[1:]]
    assert n_bytes == sum(map(len, TEXTS))


@pytest.mark.parametrize("max_len", [3, 7, 200])
def test_masked_pieces(max_len, tmp_path):
    """Between [CLS] and [SEP] stand the documents, one after another, no two in one piece."""
    pieces = []
    for batch in _all(_corpus(tmp_path, max_len=max_len, objective="masked"), 3):
        assert batch["tokens"].shape[1] <= max_len
        for row in zip(batch["tokens"], batch["mask"], batch["text"], strict=True):
            tokens, mask, text = row
            kept = tokens[mask].tolist()
            assert (kept[0], kept[-1]) == (CLS, SEP) and kept[1:-1] == tokens[text].tolist() and not tokens[~mask].any()
            pieces.append(bytes(t - 4 for t in kept[1:-1]))
    step = max_len - 2
    assert pieces == [t[i : i + step] for t in TEXTS for i in range(0, len(t), step)]
    batch = _all(_corpus(tmp_path, objective="masked"), 2)[1]
    assert batch["index"].tolist() == [2, 3] and batch["mask_id"] == Bytes().mask


def test_tokens_and_back():
    broken = b"caf\xc3\xa9 \xff!"
    (tokens,) = Bytes().encode([broken])
    assert bytes(t - 4 for t in tokens.tolist()) == broken and Bytes().n_tokens == 260
    characters = Characters.of([broken])
    (tokens,) = characters.encode([broken])
    # é is one character, the broken byte another, z is unknown
    assert len(tokens) == 7 and characters.n_tokens == 5 + 7 and characters.encode([b"z"])[0].tolist() == [4]
    assert characters.decode(tokens.tolist()) == broken.decode(errors="replace")


def test_wordpiece(tmp_path):
    vocabulary = train_vocabulary([b"the cat and the dog and the cart"] * 20, 60)
    tokenizer = WordPiece(vocabulary, tmp_path)
    (tokens,) = tokenizer.encode([b"The cat and the dog"])
    assert tokenizer.decode(tokens.tolist()) == "the cat and the dog"
    assert len(tokens) < len(b"Thecatandthedog") and not {tokenizer.cls, tokenizer.sep} & set(tokens.tolist())
    with pytest.raises(DataError, match=r"is no WordPiece vocabulary: \[CLS\] not found; give one piece a line"):
        WordPiece([piece for piece in vocabulary if piece != "[CLS]"], tmp_path)


def test_trained_vocabulary_is_of_the_training_text(tmp_path):
    data = _corpus(tmp_path, tokens="wordpiece", vocab_size=50)
    data.setup()
    again = _corpus(tmp_path, tokens="wordpiece", vocab_size=50)
    assert data.tokenizer.fingerprint == again.tokenizer.fingerprint and data.tokenizer.n_tokens <= 50
    assert len(list((tmp_path / "cache").glob("*.txt"))) == 1


def test_the_last_tenth_is_held_out_at_the_end_of_a_line(tmp_path):
    text = b"".join(b"line %d\n" % i for i in range(100))
    with gzip.open(tmp_path / "all.txt.gz", "wb") as file:
        file.write(text)
    data = TextFiles("all.txt", root=str(tmp_path), cache=str(tmp_path / "cache"))
    parts = [b"".join(data._texts(split)) for split in ("train", "val", "test")]
    assert b"".join(parts) == text and all(part.endswith(b"\n") for part in parts)
    assert [round(100 * len(part) / len(text)) for part in parts] == [90, 5, 5]


def test_token_files_are_made_once_and_checked(tmp_path):
    data = _corpus(tmp_path)
    data.setup()
    files = sorted((tmp_path / "cache").iterdir())
    assert [path.name.split("-")[1] for path in files] == ["test", "train", "val"]
    before = [path.stat().st_mtime_ns for path in files]
    _corpus(tmp_path).setup()
    assert [path.stat().st_mtime_ns for path in files] == before
    content = bytearray(files[1].read_bytes())
    content[1100] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(DataError, match="is damaged: its sha256 is not the one it was written with; delete it"):
        _corpus(tmp_path).setup()
    files[1].write_bytes(content[:900])
    with pytest.raises(DataError, match=r"is damaged .*; delete it, to have it made again"):
        _corpus(tmp_path).setup()


def test_many_tokens_need_wider_numbers(tmp_path, monkeypatch):
    data = _corpus(tmp_path, tokens="characters")
    assert data.documents("train").tokens.dtype == torch.int16
    data.tokenizer.n_tokens = np.iinfo(np.int16).max + 1
    monkeypatch.setattr(data.tokenizer, "fingerprint", "wide")
    assert data.documents("train").tokens.dtype == torch.int32


def test_bad_input(tmp_path):
    with pytest.raises(DataError, match=r"gone.txt not found, nor below .*; set data.train, or SEQMIX_DATA"):
        TextFiles("gone.txt", root=str(tmp_path), cache=str(tmp_path)).setup()
    with pytest.raises(DataError, match=r"train.txt-train holds no text; get a whole copy"):
        _corpus(tmp_path, []).setup()
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(ConfigError, match=r"vocab_size = 9 has no room for the 260 tokens of train.txt"):
        _corpus(tmp_path, vocab_size=9).setup()
    with pytest.raises(ConfigError, match=r"val = 'b' and test = None: give both files, or none of them"):
        TextFiles("a", "b")
    with pytest.raises(ConfigError, match=r"vocabulary = 'v' is of WordPiece, tokens = 'bytes'"):
        TextFiles("a", vocabulary="v")
    with pytest.raises(ConfigError, match="max_len = 2 has no room"):
        TextFiles("a", max_len=2)


def test_wikitext(tmp_path):
    if "SEQMIX_DATA" not in os.environ:
        pytest.skip("SEQMIX_DATA is not set: no real text")
    name = "wikitext2/wiki.valid.tokens"
    data = TextFiles(name, name, name, "^ = [^=]", cache=str(tmp_path))
    documents = data.documents("val")
    # 60 articles in the paper of the data set, arXiv:1609.07843, table 1
    assert len(documents.n_bytes) == 60 and documents.n_bytes.sum() == 1_121_681
