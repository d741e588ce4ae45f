"""Language models: exact bits per byte, masking that follows from numbers, the trigram model, what is refused."""

import math
from functools import partial
from itertools import chain

import pytest
import torch
from learning import share_left, step
from test_task_contract import quiet_trainer
from torch.nn import functional as F

from seqmix.data import TextFiles
from seqmix.errors import ConfigError
from seqmix.mixers import Attention, Dense, FNet, Hydra, LongVQ, Mamba, Mamba2, PoNet
from seqmix.models import BidirectionalEncoder, ChannelMLP, TokenModel
from seqmix.tasks import AdamW, CausalLM, MaskedLM
from seqmix.tasks._trigram import trigram_loss

DECODER = partial(TokenModel, mixer=Mamba, d_model=8, n_layers=1)
ENCODER = partial(BidirectionalEncoder, d_model=8, n_layers=1, mixer=partial(Hydra, d_state=4, headdim=4), dropout=0.0)


def _data(folder, **options):
    (folder / "text.txt").write_bytes(b"".join(b"line %d of the text\n" % i for i in range(60)))
    given = {"max_len": 16, "batch_size": 4, "cache": str(folder / "cache")}
    return TextFiles(str(folder / "text.txt"), **{**given, **options})


@pytest.mark.parametrize("eval_batch_size", [1, 3, 64])
def test_bits_per_byte_are_over_all_tokens(eval_batch_size, tmp_path):
    task = CausalLM(DECODER, 260, 16)
    data = _data(tmp_path, eval_batch_size=eval_batch_size)
    (metrics,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    loss, n_bytes = 0.0, sum(map(len, chain.from_iterable(data._documents("test"))))
    with torch.no_grad():
        for piece in [data._splits["test"].gather(torch.tensor([i])) for i in range(len(data._splits["test"]))]:
            loss += F.cross_entropy(task(piece["tokens"])[0].double(), piece["targets"][0], reduction="sum").item()
    # one more token than bytes: the end
    assert metrics["test_tokens"] == n_bytes + 1
    assert metrics["test_bits_per_byte"] == pytest.approx(loss / math.log(2) / n_bytes, rel=1e-5)
    assert metrics["test_perplexity"] == pytest.approx(math.exp(loss / (n_bytes + 1)), rel=1e-5)


def test_bits_per_byte_of_a_part_of_the_text(tmp_path, monkeypatch):
    """Under a limit the tokens that were scored and their bytes count, for the model and for the trigram beside it."""
    task, text = CausalLM(DECODER, 260, 16), str(tmp_path / "text.txt")
    data = _data(tmp_path, document=r"line \d*0", val=text, test=text, max_len=50)
    trainer = quiet_trainer(tmp_path, limit_test_batches=2)
    (metrics,) = trainer.test(task, data, verbose=False)
    pieces = data._splits["test"].gather(torch.arange(8))
    asked = pieces["targets"][pieces["targets"] != -100]
    n_bytes = int((asked != data.tokenizer.sep).sum())
    assert metrics["test_tokens"] == len(asked) > n_bytes == int(pieces["bytes"].sum())
    with torch.no_grad():
        loss = F.cross_entropy(task(pieces["tokens"]).transpose(1, 2), pieces["targets"], reduction="sum").item()
    assert metrics["test_bits_per_byte"] == pytest.approx(loss / math.log(2) / n_bytes, rel=1e-5)
    (found,) = task.baselines(data, None, 0)
    assert found.count == len(asked)
    train, test = data.documents("train"), data.documents("test")
    loss, _ = trigram_loss(train.tokens, test.tokens, test.bounds, 260, count=len(asked))
    assert found.metrics["bits_per_byte"] == pytest.approx(loss / math.log(2) / n_bytes)
    # in blocks that are shorter than a document
    monkeypatch.setattr("seqmix.tasks._trigram._BLOCK", 7)
    assert trigram_loss(train.tokens, test.tokens, test.bounds, 260, count=len(asked))[0] == pytest.approx(loss)


@pytest.mark.parametrize("objective", ["causal", "masked", "pairs"])
def test_one_batch_is_learned_by_heart(objective, tmp_path):
    task = {
        "causal": lambda: CausalLM(DECODER, 260, 16),
        "masked": lambda: MaskedLM(ENCODER, 260, 16, mask_rate=0.3),
        "pairs": lambda: MaskedLM(ORDERED, 260, 16, mask_rate=0.3, sentence_order=True),
    }[objective]()
    # pairs of one document are few, whatever its length
    data = _data(tmp_path, objective=objective, document=r"line \d*0" if objective == "pairs" else None)
    data.setup()
    batch = data._splits["train"].gather(torch.arange(4))
    assert share_left(task, batch, 40, lr=0.03) < 0.5


# what keeps packed texts apart, with positions that begin anew in each
SCANS = [partial(Mamba, d_state=4), partial(Mamba2, d_state=4, headdim=4)]
PACKED = {
    "causal": (CausalLM, partial(DECODER, layers=SCANS, n_layers=2, positions=True)),
    "masked": (MaskedLM, partial(ENCODER, max_len=16, positions=True)),
}


@pytest.mark.parametrize("objective", PACKED)
def test_packed_loss_and_gradients_are_those_of_the_texts_alone(objective, tmp_path):
    make, model = PACKED[objective]
    task = make(model, 260, 16).double()
    packed = _data(tmp_path, objective=objective, packing="documents")._make()["train"]
    alone = _data(tmp_path, objective=objective)._make()["train"]
    # the last piece of the text is shorter
    numbers = torch.tensor([3, 0, len(alone) - 1, 7])
    pieces = [alone.gather(numbers[i : i + 1]) for i in range(4)]
    counts = [_asked(task, piece) for piece in pieces]
    assert min(counts) > 0
    want = sum(n * step(task, piece) for n, piece in zip(counts, pieces, strict=True)) / sum(counts)
    got = step(task, packed.gather(numbers))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    weights = dict(task.named_parameters())
    grads = [torch.autograd.grad(loss, [*weights.values()], allow_unused=True) for loss in (got, want)]
    for name, *pair in zip(weights, *grads, strict=True):
        # rates and skips are float32 whatever the module is in, and so are their gradients
        tolerance = 1e-5 if name.endswith((".A_log", ".D")) else 1e-10
        torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance, msg=name)


def _asked(task, piece):
    if isinstance(task, CausalLM):
        return int((piece["targets"] != -100).sum())
    return int(task.hide(piece, task.mask_rate, 1)[1].sum())


@pytest.mark.parametrize("objective", PACKED)
@pytest.mark.parametrize("eval_batch_size", [1, 5])
def test_packing_does_not_change_the_metrics(eval_batch_size, objective, tmp_path):
    make, model = PACKED[objective]
    task = make(model, 260, 16)
    options = {"objective": objective, "eval_batch_size": eval_batch_size}
    want, got = (
        quiet_trainer(tmp_path).test(task, _data(tmp_path, packing=packing, **options), verbose=False)[0]
        for packing in ("padded", "documents")
    )
    assert got == pytest.approx(want, rel=1e-5) and got[f"test_{task.counted}"] == want[f"test_{task.counted}"] > 0


# all sentences are alike but for their numbers
ORDERED = partial(
    BidirectionalEncoder, d_model=8, n_layers=1, mixer=PoNet, channel_mixer=ChannelMLP, dropout=0.0, pooler=True
)


@pytest.mark.parametrize("eval_batch_size", [1, 3, 64])
def test_sentence_order_is_added_and_counted_exactly(eval_batch_size, tmp_path):
    task, text = MaskedLM(ORDERED, 260, 30, sentence_order=True).double(), str(tmp_path / "text.txt")
    options = {"val": text, "test": text, "document": r"line \d*0", "objective": "pairs", "max_len": 30}
    data = _data(tmp_path, eval_batch_size=eval_batch_size, **options)
    (metrics,) = quiet_trainer(tmp_path, precision="64-true").test(task, data, verbose=False)
    pairs, loss, right, answers = data._splits["test"], 0.0, 0, 0
    with torch.no_grad():
        for i in range(len(pairs)):
            _, answer, scores, relation = _by_hand(task, pairs.gather(torch.tensor([i])), 0)
            loss += F.cross_entropy(scores, relation).item()
            right, answers = right + int(scores.argmax() == relation), answers + len(answer)
    assert metrics["test_order_loss"] == pytest.approx(loss / len(pairs), rel=1e-5) and len(pairs) > 6
    assert metrics["test_order_accuracy"] == pytest.approx(right / len(pairs)) and metrics["test_answers"] == answers
    batch = pairs.gather(torch.tensor([4, 0, 2]))
    words, answers, scores, relations = _by_hand(task, batch, 1)
    want = F.cross_entropy(words, answers) + F.cross_entropy(scores, relations)
    torch.testing.assert_close(step(task, batch), want, rtol=1e-10, atol=1e-10)


def _by_hand(task, batch, epoch):
    """Scores and answers of hidden tokens and of relations."""
    tokens, asked = task.hide(batch, 0.15, epoch)
    special = batch["mask"] & ~batch["text"]
    x = task.model.bert(tokens, batch["mask"], batch["types"], segments=batch["segments"], special=special)
    summary = task.model.bert.pooler["dense"](x[:, 0]).tanh()
    words, relations = task.model.cls["predictions"](x)[asked], task.model.cls["seq_relationship"](summary)
    return words, batch["tokens"][asked], relations, batch["relation"]


@pytest.mark.parametrize("mixer", [FNet, Dense, Attention, partial(LongVQ, n_codes=4)])
def test_only_causal_mixers_predict_the_next_token(mixer):
    name = getattr(mixer, "func", mixer).__name__
    with pytest.raises(ConfigError, match=f"must not see the next token, {name} does; use a causal mixer"):
        CausalLM(partial(DECODER, mixer=mixer), 260, 16)


def test_what_is_hidden():
    """15 % are asked for, 80 % of them masked, 10 % replaced, nothing outside of the text, anew in each epoch."""
    task = MaskedLM(ENCODER, 1000, 512)
    tokens = torch.randint(4, 1000, (64, 512))
    text = torch.ones(64, 512, dtype=torch.bool)
    text[:, 0] = text[:, 400:] = False
    batch = {"tokens": tokens, "text": text, "index": torch.arange(64), "mask_id": torch.tensor(3)}
    hidden, asked = task.hide(batch, 0.15, 1)
    n = int(text.sum())
    assert not (asked & ~text).any() and asked.sum() / n == pytest.approx(0.15, abs=0.01)
    assert (hidden[asked] == 3).float().mean() == pytest.approx(0.8, abs=0.02)
    changed = (hidden != tokens) & (hidden != 3)
    assert not (changed & ~asked).any() and changed.sum() / asked.sum() == pytest.approx(0.1, abs=0.02)
    # replacements are drawn from all tokens alike
    assert hidden[changed].float().mean() == pytest.approx(500, abs=60)

    assert torch.equal(hidden, task.hide(batch, 0.15, 1)[0])
    rows = torch.tensor([5, 2])
    part = {**batch, **{key: batch[key][rows] for key in ("tokens", "text", "index")}}
    assert torch.equal(hidden[rows], task.hide(part, 0.15, 1)[0])
    for other in (task.hide(batch, 0.15, 2)[1], MaskedLM(ENCODER, 1000, mask_seed=1).hide(batch, 0.15, 1)[1]):
        # as often in common as two independent draws
        assert (asked & other).sum() / n == pytest.approx(0.15**2, abs=0.005)


@pytest.mark.parametrize("eval_batch_size", [1, 3])
def test_masked_loss_does_not_depend_on_the_batch_size(eval_batch_size, tmp_path):
    task = MaskedLM(ENCODER, 260, 16)
    found = [
        quiet_trainer(tmp_path).test(task, _data(tmp_path, objective="masked", eval_batch_size=size), verbose=False)[0]
        for size in (eval_batch_size, 64)
    ]
    assert found[0]["test_answers"] == found[1]["test_answers"] > 0
    assert found[0]["test_loss"] == pytest.approx(found[1]["test_loss"], rel=1e-5)


def test_a_resumed_run_hides_the_same(tmp_path):
    def run(epochs, ckpt_path=None):
        torch.manual_seed(0)
        task, data = MaskedLM(ENCODER, 260, 16, optim=AdamW(schedule="constant")), _data(tmp_path, objective="masked")
        trainer = quiet_trainer(tmp_path, max_epochs=epochs, limit_train_batches=3, limit_val_batches=1)
        trainer.fit(task, data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return task.state_dict()

    run(1)
    resumed, whole = run(2, str(tmp_path / "1.ckpt")), run(2)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_trigram_by_hand():
    """Witten-Bell on ``a b a c`` with four tokens, the last unseen: p(b | . a) through pairs and single tokens."""
    train, test = torch.tensor([1, 2, 1, 3]), torch.tensor([1, 2])
    loss, counts = trigram_loss(train, test, torch.tensor([0, 2]), 4)
    single = (1 + 3 / 4) / (4 + 3)
    pair = (1 + 2 * single) / (2 + 2)
    # (0, 1) was seen at the beginning, with one token after it: the triple (0, 1, 2)
    triple = (1 + 1 * pair) / (1 + 1)
    assert loss == pytest.approx(-math.log(triple)) and counts == 3 + 4 + 4


def test_trigram_is_a_distribution():
    train = torch.randint(5, (200,))
    for a, b in [(0, 1), (4, 4), (2, 0)]:
        scores = [trigram_loss(train, torch.tensor([a, b, c]), torch.tensor([0, 3]), 6)[0] for c in range(6)]
        first = trigram_loss(train, torch.tensor([a, b]), torch.tensor([0, 2]), 6)[0]
        assert sum(math.exp(first - score) for score in scores) == pytest.approx(1)


def test_bad_options(tmp_path):
    causal, masked = (_data(tmp_path, objective=objective) for objective in ("causal", "masked"))
    for task, data, want in [
        (CausalLM(DECODER, 260, 16), masked, "CausalLM needs pieces with a next token; set data.objective: causal"),
        (MaskedLM(ENCODER, 260, 16), causal, "MaskedLM hides tokens of whole pieces; set data.objective: masked"),
    ]:
        with pytest.raises(ConfigError, match=want):
            quiet_trainer(tmp_path).test(task, data, verbose=False)
    with pytest.raises(ConfigError, match="texts have up to 16 tokens, the encoder max_len = 8; raise that one"):
        MaskedLM(partial(ENCODER, max_len=8), 260, 16)
    ordered = MaskedLM(ORDERED, 260, 16, sentence_order=True)
    masked = _data(tmp_path, objective="masked")
    with pytest.raises(ConfigError, match=r"sentence_order = True needs pairs of sentences; set data.objective: pairs"):
        quiet_trainer(tmp_path).test(ordered, masked, verbose=False)
    with pytest.raises(ConfigError, match="n_relations = 3 needs a summary; build the encoder with pooler=True"):
        MaskedLM(ENCODER, 260, 16, sentence_order=True)
    with pytest.raises(ConfigError, match="mask_rate is a share of the tokens, 0 < mask_rate <= 1, got 0"):
        MaskedLM(ENCODER, 260, 16, mask_rate=0)


def test_published_size():
    """Mamba-130M of the original authors: 24 layers of width 768, 50,280 tokens."""
    with torch.device("meta"):
        model = TokenModel(50_280, mixer=Mamba, channel_mixer=None, d_model=768, n_layers=24, norm="rms")
    assert sum(p.numel() for p in model.parameters()) == 129_135_360
