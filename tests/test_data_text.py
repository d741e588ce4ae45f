"""Corpora: no token lost, doubled or mixed with another document; tokens and back; pairs; files; bad input."""

import gzip
import shutil
from itertools import chain

import numpy as np
import pytest
import torch

from seqmix.data import TextFiles
from seqmix.data.text._pairs import keep_of_first
from seqmix.data.text.tokenizer import CLS, SEP, Bytes, Characters, WordPiece, train_vocabulary
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


@pytest.mark.parametrize("objective", ["causal", "masked"])
@pytest.mark.parametrize("max_len", [3, 7, 200])
def test_packed_pieces_are_the_padded_ones_without_padding(max_len, objective, tmp_path):
    options = {"max_len": max_len, "objective": objective}
    padded, packed = (_all(_corpus(tmp_path, packing=p, **options), 3) for p in ("padded", "documents"))
    for want, got in zip(padded, packed, strict=True):
        kept = want["targets"] != -100 if objective == "causal" else want["mask"]
        assert got["cu_seqlens"].tolist() == [0, *kept.sum(1).cumsum(0).tolist()]
        for name in want.keys() - {"mask"}:
            flat = want[name].shape == kept.shape
            assert torch.equal(got[name], want[name][kept].unsqueeze(0) if flat else want[name]), name
        assert "mask" not in got


# six sentences each, no two alike
PAIRED = [b"".join(b"%c%d.\n" % (65 + d, s) * (1 + s % 3) for s in range(6)) for d in range(26)]


def _parts(batch, i):
    """Text of the two parts of pair ``i``."""
    row, text, second = (batch[name][i] for name in ("tokens", "text", "types"))
    return tuple(bytes((row[text & (second == k)] - 4).tolist()) for k in range(2))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_pairs_of_whole_chunks(batch_size, tmp_path):
    """In order, swapped, or with a chunk from elsewhere; with marks, types and segments as the original has them."""
    options = {"max_len": 200, "objective": "pairs", "copies": 3}
    data = _corpus(tmp_path, PAIRED, document=r"\w0", sentence=r"\n", **options)
    everything, seen = b"".join(PAIRED), []
    for batch in _all(data, batch_size):
        for i, relation in enumerate(batch["relation"].tolist()):
            a, b = _parts(batch, i)
            assert a.endswith(b"\n") and b.endswith(b"\n") and a in everything and b in everything
            assert (a + b in everything, relation == 1 and b + a in everything) == (relation == 0, relation == 1)
            kept = batch["mask"][i]
            tokens = batch["tokens"][i][kept].tolist()
            assert tokens == [CLS, *(t + 4 for t in a), SEP, *(t + 4 for t in b), SEP]
            assert not batch["tokens"][i][~kept].any() and torch.equal(batch["special"][i], kept & ~batch["text"][i])
            assert batch["types"][i][kept].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
            lines = [b"0", *a.splitlines(True), b"0", *b.splitlines(True), b"0"]
            assert batch["segments"][i][kept].tolist() == [n for n, line in enumerate(lines) for _ in line]
            assert (batch["segments"][i][~kept] == len(lines)).all()
            seen.append((relation, a, b))
    assert {relation for relation, *_ in seen} == {0, 1, 2}


def test_pairs_follow_from_their_numbers(tmp_path):
    """The same in every run and whatever the batch; each copy has draws of its own, and evaluation has one copy."""
    options = {"document": r"\w0", "sentence": r"\n", "max_len": 30, "objective": "pairs"}
    data, again = (_corpus(tmp_path, PAIRED, copies=copies, **options)._make() for copies in (2, 3))
    n = len(data["train"])
    assert torch.equal(data["train"].parts, again["train"].parts[:n]) and len(data["val"]) < n < len(again["train"])
    copies = data["train"].parts.split([len(data["val"]), n - len(data["val"])])
    assert len(copies[0]) != len(copies[1]) or not torch.equal(*copies)
    whole, (row,) = data["train"].gather(torch.arange(n)), torch.tensor([[n - 3]])
    alone = data["train"].gather(row)
    for name in ("tokens", "text", "types", "relation", "index"):
        width = alone["tokens"].shape[1] if alone[name].ndim == 2 else None
        assert torch.equal(whole[name][row][:, :width] if width else whole[name][row], alone[name]), name


def test_long_pairs_lose_tokens_at_both_ends(tmp_path):
    """One by one from the longer part, the second if equal, at the begin as often as at the end."""
    for room in range(2, 12):
        for a, b in np.ndindex(14, 14):
            want = [a + 1, b + 1]
            while sum(want) > room:
                want[0 if want[0] > want[1] else 1] -= 1
            assert keep_of_first(np.array(a + 1), np.array(b + 1), room) == want[0]
    texts = [b"%04d" % i + b"a" * 46 + b"\n" + b"b" * 51 + b"\n" for i in range(1500)]
    pairs = _corpus(tmp_path, texts, document=r"\d", max_len=63, objective="pairs")._make()["train"]
    start, a, other, b, relation = pairs.parts.unbind(1)
    # chunks are documents, of 51 and 52 tokens
    assert len(pairs) == 1500 and (a == 30).all() and (b == 30).all()
    # where the parts are in order, their first tokens lie 105 tokens from document to document
    lost = torch.stack([(start - 1) % 105, (other - 52) % 105], 1)[relation == 0].double()
    assert lost.mean(0).tolist() == pytest.approx([21 / 2, 22 / 2], abs=0.5)
    assert lost.std(0).tolist() == pytest.approx([(21 / 4) ** 0.5, (22 / 4) ** 0.5], rel=0.1)
    assert (relation.bincount() / 1500).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)


def test_sentences_are_kept_beside_the_tokens(tmp_path):
    texts = [b"one. two!\n\nthree", b"\nfour\n"]
    (tmp_path / "all").mkdir()
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / "all" / name).write_bytes(text)
    data = TextFiles(*[str(tmp_path / "all" / n) for n in "aba"], objective="pairs", cache=str(tmp_path))
    for split, text, want in [
        ("train", texts[0], [b"one. ", b"two!\n\n", b"three"]),
        ("val", texts[1], [b"\n", b"four\n"]),
    ]:
        documents = data.documents(split)
        assert documents.sentences.tolist() == [1, *(1 + np.cumsum([len(part) for part in want])).tolist()]
        assert bytes((documents.tokens[1 : len(text) + 1] - 4).tolist()) == text
    masked = TextFiles(*[str(tmp_path / "all" / n) for n in "aba"], objective="masked", cache=str(tmp_path))
    assert masked.documents("train").sentences is None


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
    parts = [b"".join(chain.from_iterable(data._documents(split))) for split in ("train", "val", "test")]
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
    with pytest.raises(ConfigError, match=r"val = 'b' and test = None are one file of two; give both, or none of them"):
        TextFiles("a", "b")
    with pytest.raises(ConfigError, match=r"vocabulary = 'v' is of WordPiece, tokens = 'bytes'"):
        TextFiles("a", vocabulary="v")
    with pytest.raises(ConfigError, match="max_len = 2 has no room"):
        TextFiles("a", max_len=2)
    with pytest.raises(ConfigError, match="max_len = 4 has no room"):
        TextFiles("a", max_len=4, objective="pairs")
    with pytest.raises(ConfigError, match=r"pairs are padded, got packing = 'documents'; set data.packing: padded"):
        TextFiles("a", packing="documents", objective="pairs")
    with pytest.raises(ConfigError, match=r"sentence = '\(' is not a regular expression: .*; set data.sentence"):
        TextFiles("a", sentence="(")
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match=r"no document has two sentences to tell the order of; set data.sentence"):
        _corpus(tmp_path / "one", objective="pairs", sentence="#").setup()


def test_wikitext(tmp_path, real_data):
    name = "wikitext2/wiki.valid.tokens"
    real_data("wikitext2")
    data = TextFiles(name, name, name, "^ = [^=]", cache=str(tmp_path))
    documents = data.documents("val")
    # 60 articles in the paper of the data set, arXiv:1609.07843, table 1
    assert len(documents.n_bytes) == 60 and documents.n_bytes.sum() == 1_121_681


@pytest.mark.parametrize("tokens", ["bytes", "characters", "wordpiece"])
@pytest.mark.parametrize("document", [None, "= "])
def test_documents_in_parts_have_the_tokens_of_the_whole(tmp_path, monkeypatch, tokens, document):
    if tokens == "wordpiece":
        pytest.importorskip("tokenizers")
    texts = [b"= a =\n" + b"".join(b"line %d, \xc3\xa9 and more\n" % i for i in range(30)), *TEXTS]
    whole = _corpus(tmp_path, texts, tokens=tokens, vocab_size=300, document=document).documents("train")
    # a vocabulary that is trained twice may number pieces of the same count in another order
    (tmp_path / "other").mkdir()
    for file in (tmp_path / "cache").glob("*.txt"):
        shutil.copy(file, tmp_path / "other")
    monkeypatch.setattr("seqmix.data.text._parts._PART", 20)
    monkeypatch.setattr("seqmix.data.text._token_file._MOST_BYTES", 50)
    parts = _corpus(tmp_path, tokens=tokens, vocab_size=300, document=document, cache=str(tmp_path / "other"))
    for one, other in zip(whole, parts.documents("train"), strict=True):
        assert one is other is None or torch.equal(one, other)
