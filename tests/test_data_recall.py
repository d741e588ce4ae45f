"""The recall tasks: what they ask can be looked up exactly, and can be had neither by guessing nor from one token."""

from collections import Counter

import numpy as np
import pytest
import torch

from seqmix.data.sequences.recall import ASK, UNASKED, AssociativeRecall, Copying, SelectiveCopying
from seqmix.data.sequences.state_tracking import StateTracking, product_table
from seqmix.errors import ConfigError

SIZES = {"n_train": 3000, "n_val": 200, "n_test": 1500}
TASKS = {
    "Copying": lambda **o: Copying(5, 6, 7, **{**SIZES, **o}),
    "SelectiveCopying": lambda **o: SelectiveCopying(5, 6, 17, **{**SIZES, **o}),
    "AssociativeRecall": lambda **o: AssociativeRecall(23, 5, 27, **{**SIZES, **o}),
}
each_task = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)


def _all(data, split):
    data.setup()
    return data._splits[split].gather(torch.arange(len(data._splits[split])))


@each_task
def test_facts_and_shapes(make):
    data = make(batch_size=7, eval_batch_size=64)
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]
    assert [len(loader.windows) for loader in loaders] == [3000, 200, 1500, 1500]
    assert [len(loader) for loader in loaders] == [429, 4, 24, 24]
    for split in ("train", "val", "test"):
        batch = _all(data, split)
        tokens, targets = batch["tokens"], batch["targets"]
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.shape == targets.shape == (SIZES[f"n_{split}"], data.max_len)
        assert tokens.min() >= 0 and tokens.max() == data.vocab_size - 1
        asked = targets != UNASKED
        assert targets[asked].min() > ASK and targets.max() == data.vocab_size - 1
        # every sequence asks as often
        assert (asked.sum(1) == (data.n_pairs if isinstance(data, AssociativeRecall) else data.n_copied)).all()


def _lookup(data, tokens):
    """Answers by rule, from the tokens before each question alone; the tasks' own targets are not used."""
    answers = torch.full_like(tokens, UNASKED)
    for row, answer in zip(tokens.tolist(), answers, strict=True):
        if isinstance(data, AssociativeRecall):
            for i, token in enumerate(row):
                if token and token in row[:i]:
                    answer[i] = row[row.index(token) + 1]
        else:
            symbols = iter([token for token in row if token > ASK])
            for i, token in enumerate(row):
                if token == ASK:
                    answer[i] = next(symbols)
    return answers


@each_task
def test_a_lookup_solves_it_exactly(make):
    data = make()
    batch = _all(data, "test")
    assert torch.equal(_lookup(data, batch["tokens"]), batch["targets"])


@each_task
def test_the_answer_stands_before_the_question_and_nowhere_else(make):
    """Bidirectional mixers see nothing that causal ones do not."""
    batch = _all(make(), "test")
    tokens, targets = batch["tokens"], batch["targets"]
    asked = targets != UNASKED
    assert (tokens[asked] != targets[asked]).all()
    first = asked.int().argmax(1)
    is_answer = (tokens[:, :, None] == targets[:, None, :]) & asked[:, None, :]  # (n, L, L)
    position = torch.arange(tokens.shape[1])
    assert is_answer.any(1)[asked].all()
    assert not (is_answer.any(2) & (position >= first[:, None])).any()


@each_task
def test_nothing_is_gained_without_recall(make):
    """The commonest answer, and the commonest for each token at each position, learned from the training split."""
    data = make(n_train=20000, n_test=5000)
    train, test = _all(data, "train"), _all(data, "test")

    def triples(batch):
        row, place = (batch["targets"] != UNASKED).nonzero(as_tuple=True)
        found = batch["tokens"][row, place], place, batch["targets"][row, place]
        return list(zip(*(x.tolist() for x in found), strict=True))

    count = len(triples(test))
    # three standard deviations of chance over the test answers
    slack = 3 * (data.chance * (1 - data.chance) / count) ** 0.5
    for kind in (lambda t, p: 0, lambda t, p: t, lambda t, p: p, lambda t, p: (t, p)):
        seen = {}
        for token, place, answer in triples(train):
            seen.setdefault(kind(token, place), Counter())[answer] += 1
        best = {k: c.most_common(1)[0][0] for k, c in seen.items()}
        right = sum(best.get(kind(t, p)) == answer for t, p, answer in triples(test))
        assert right / count == pytest.approx(data.chance, abs=slack)


def test_the_place_of_a_query_does_not_tell_its_pair():
    data = AssociativeRecall(23, 5, 27, n_train=20000, n_val=1, n_test=1)
    batch = _all(data, "train")
    tokens, targets = batch["tokens"][:, None, :], batch["targets"][:, :, None]
    pair = (tokens[..., 1:10:2] == targets).int().argmax(-1)[batch["targets"] != UNASKED]  # (20000 * 5,)
    place = (batch["targets"] != UNASKED).nonzero()[:, 1]
    table = torch.zeros(27, 5).index_put((place, pair), torch.ones(len(pair)), accumulate=True)[10:26:2]
    share = table / table.sum(1, keepdim=True)
    # four standard deviations of a share among the queries of the rarest place
    slack = 4 * float((0.2 * 0.8 / table.sum(1).min()) ** 0.5)
    torch.testing.assert_close(share, torch.full_like(share, 0.2), atol=slack, rtol=0)


def test_symbols_of_selective_copying_stand_anywhere():
    tokens = _all(SelectiveCopying(5, 6, 17, **SIZES), "train")["tokens"]
    rate = (tokens[:, :17] > ASK).double().mean(0)
    torch.testing.assert_close(rate, torch.full_like(rate, 6 / 17), atol=0.035, rtol=0)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_gaps_follow_the_power_law(power):
    """The first query of one pair among eight places: its gap has the probabilities of the docstring."""
    data = AssociativeRecall(20, 1, 18, power=power, n_train=20000, n_val=1, n_test=1)
    gap = ((_all(data, "train")["targets"] != UNASKED).int().argmax(1) - 2) // 2 + 1
    want = torch.arange(1, 9).double() ** (power - 1)
    got = torch.bincount(gap, minlength=9)[1:].double() / len(gap)
    # four standard deviations of a share among 20,000
    torch.testing.assert_close(got, want / want.sum(), atol=4 * 0.5 / 20000**0.5, rtol=0)


@each_task
def test_splits_depend_on_the_seed_alone_and_share_nothing(make):
    state = torch.get_rng_state()
    first, again, other = (make(data_seed=s) for s in (1, 1, 2))
    splits = [_all(data, split)["tokens"] for data in (first, other) for split in ("train", "val", "test")]
    assert torch.equal(splits[0], _all(again, "train")["tokens"])
    rows = [set(map(tuple, split.tolist())) for split in splits]
    # 5^6 strings to copy: chance repeats are possible in Copying, whole splits are not
    shared = 0.25 if isinstance(first, Copying) else 0.02
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert len(a & b) <= shared * min(len(a), len(b))
    assert torch.equal(torch.get_rng_state(), state)


def test_default_test_sequences_are_not_in_training():
    for make in (Copying, SelectiveCopying, AssociativeRecall):
        train, val, test = (set(map(tuple, _all(make(), s)["tokens"].tolist())) for s in ("train", "val", "test"))
        assert len((val | test) & train) <= 0.005 * len(val | test)


def test_shuffles_are_seeded_and_resumed():
    data = Copying(seed=3, batch_size=16, **SIZES)
    first = [b["tokens"] for b in data.train_dataloader()]
    assert torch.equal(torch.cat(first), torch.cat([b["tokens"] for b in Copying(seed=3, **SIZES).train_dataloader()]))
    assert not torch.equal(torch.cat(first), _all(data, "train")["tokens"])

    torch.manual_seed(5)
    fresh = Copying(batch_size=16, **SIZES)
    order = [b["tokens"] for b in fresh.train_dataloader()]
    torch.manual_seed(6)
    resumed = Copying(batch_size=16, **SIZES)
    resumed.load_state_dict(fresh.state_dict())
    assert torch.equal(torch.cat(order), torch.cat([b["tokens"] for b in resumed.train_dataloader()]))
    data.load_state_dict(fresh.state_dict())
    assert data.state_dict() == {"shuffle_seed": 3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Copying(n_copied=0), "n_copied must be at least 1, got 0; set data.n_copied to a positive number"),
        (
            lambda: Copying(batch_size=0),
            "batch_size must be at least 1, got 0; set data.batch_size to a positive number",
        ),
        (lambda: Copying(n_val=0), "n_val must be at least 1, got 0; set data.n_val to a positive number"),
        (lambda: Copying(seed=-1), "seed must not be negative, got -1; set data.seed to 0 or more"),
        (lambda: Copying(data_seed=-1), "data_seed must not be negative, got -1; set data.data_seed to 0 or more"),
        (lambda: SelectiveCopying(span=7), "span = 7 has no room for n_copied = 8 symbols; set data.span"),
        (
            lambda: AssociativeRecall(length=15),
            "length = 15 has no room for n_pairs = 4 and their queries; set data.length to 16 or more",
        ),
        (
            lambda: AssociativeRecall(vocab_size=9),
            "vocab_size = 9 has fewer keys than n_pairs = 4; set data.vocab_size to 10 or more",
        ),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(("vocab_size", "n_pairs", "length"), [(4, 1, 4), (10, 4, 16), (11, 4, 17)])
def test_smallest_sizes(vocab_size, n_pairs, length):
    data = AssociativeRecall(vocab_size, n_pairs, length, **SIZES)
    batch = _all(data, "test")
    assert torch.equal(_lookup(data, batch["tokens"]), batch["targets"])


@pytest.mark.parametrize("group", ["parity", "Z5", "Z60", "S3", "A5", "S5"])
def test_products_of_a_group(group):
    """Closed, associative, with a unit and inverses; S3 and A5 do not commute."""
    table = product_table(group)
    n = len(table)
    assert n == {"parity": 2, "Z5": 5, "Z60": 60, "S3": 6, "A5": 60, "S5": 120}[group]
    assert (np.sort(table, 0) == np.arange(n)[:, None]).all()
    assert (table[0] == np.arange(n)).all()
    assert (table[table] == table[:, table]).all()
    assert (table == table.T).all() == (group in ("parity", "Z5", "Z60"))


def test_targets_are_the_products_so_far_at_every_length():
    data = StateTracking("S3", 5, **SIZES)
    assert (data.max_len, data.vocab_size, data.chance) == (20, 6, 1 / 6)
    for split, length in (("train", 5), ("val", 5), ("test", 20)):
        batch = _all(data, split)
        assert batch["tokens"].shape == batch["targets"].shape == (SIZES[f"n_{split}"], length)
        for tokens, targets in zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True):
            product = 0
            for token, target in zip(tokens, targets, strict=True):
                product = data.products[product, token]
                assert target == product
    with pytest.raises(ConfigError, match="there is no group 'S4'; use one of parity, Z5, Z60, S3, A5, S5"):
        StateTracking("S4")
