"""The tasks of the leaderboard: what they ask, and the statistics of the published generators."""

import math

import numpy as np
import pytest
import torch

from seqlab.ffn import MLP
from seqlab.figures.tasks import task_examples
from seqlab.mixers import Attention
from seqlab.model import VectorModel
from seqlab.tasks import (
    IGNORE,
    MQAR,
    Copy,
    DelayedCopy,
    FuzzyRecall,
    Induction,
    Largest,
    LinearRegression,
    Mixed,
    ModularCount,
    Names,
    Needle,
    Parity,
    Permutations,
    Recall,
    SelectiveCopy,
    Text,
)
from seqlab.train import accuracy, train

TASKS = {
    "MQAR": MQAR(n_pairs=3, length=16, vocab=32),
    "induction": Induction(8, 16),
    "selective copy": SelectiveCopy(),
    "copy": Copy(),
    "delayed copy": DelayedCopy(delay=8),
    "needle": Needle(length=16),
    "fuzzy recall": FuzzyRecall(n_pairs=2),
    "recall": Recall(),
    "names": Names(length=16),
    "largest": Largest(),
    "parity": Parity(),
    "counting": ModularCount(),
    "permutations": Permutations(),
    "text": Text(b"the quick brown fox jumps over the lazy dog & <her> dog", 16),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_one_look(name):
    task = TASKS[name]
    batch, again = task.batch(6, seeded()), task.batch(6, seeded())
    assert all(x.equal(y) for x, y in zip(batch, again, strict=True))
    assert not batch.tokens.equal(task.batch(6, seeded(1)).tokens)
    assert batch.tokens.shape == batch.targets.shape and batch.tokens.dtype == torch.long
    assert batch.tokens.min() >= 0 and batch.tokens.max() < task.vocab
    asked = batch.targets[batch.targets != IGNORE]
    assert len(asked) and asked.min() >= 0 and asked.max() < task.vocab
    words = {task.word(token) for token in range(task.vocab)}
    assert all(isinstance(word, str) and word for word in words)
    assert eval(repr(task)) == task  # the leaderboard knows a task by its repr


@pytest.mark.parametrize("name", TASKS)
def test_chance_is_what_guessing_gets_right(name):
    """Answers drawn at random from those that occur."""
    task = TASKS[name]
    targets = task.batch(4000, seeded()).targets
    asked = targets[targets != IGNORE]
    if name == "text":
        assert task.chance == 1 / 256
        return
    answers = asked.unique()
    guesses = answers[torch.randint(len(answers), asked.shape, generator=seeded(1))]
    right = (guesses == asked).double().mean().item()
    error = math.sqrt(task.chance * (1 - task.chance) / len(asked))
    assert abs(right - task.chance) < 5 * error


def test_mqar_is_a_dict_that_is_asked_once_for_every_key():
    task = MQAR(n_pairs=5, length=30, vocab=40)
    batch = task.batch(200, seeded())
    for tokens, targets, pair in zip(*(x.tolist() for x in batch), strict=True):
        keys, values = tokens[0:10:2], tokens[1:10:2]
        assert len(set(keys)) == len(set(values)) == 5
        assert min(keys) >= 1 and max(keys) < 20 <= min(values) and max(values) < 40
        places = [t for t in range(30) if targets[t] != IGNORE]
        assert all(t >= 10 and t % 2 == 0 for t in places)
        assert sorted(tokens[t] for t in places) == sorted(keys)
        for t in range(30):
            asked = targets[t] != IGNORE
            assert pair[t] == (keys.index(tokens[t]) if asked else IGNORE)
            assert not asked or targets[t] == values[pair[t]]
    blank = MQAR(n_pairs=5, length=30, vocab=40, filler=False).batch(200, seeded())
    silent = (blank.targets == IGNORE) & (torch.arange(30) >= 10)
    assert (blank.tokens[silent] == 0).all()
    filler = batch.tokens[silent & (batch.targets == IGNORE)]
    assert set(filler.tolist()) == set(range(40))


def published_gaps(n, pairs, space, power, rng):
    """The places as the authors' generator draws them: numpy, one row at a time."""
    p = power * np.arange(1, space + 1) ** (power - 1)
    p /= p.sum()
    return np.stack([rng.choice(space, size=pairs, replace=False, p=p) for _ in range(n)])


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_mqar_has_the_gaps_of_the_published_generator(power):
    """How often pair i is asked for at place g, against the authors' own way of drawing."""
    task, n = MQAR(n_pairs=3, length=20, vocab=24, power=power), 6000
    batch = task.batch(n, seeded())
    ours = torch.zeros(3, 7)
    for i in range(3):
        places = (batch.pair == i).long().argmax(1)
        ours[i] = ((places - 6) // 2).bincount(minlength=7) / n
    drawn = published_gaps(n, 3, 7, power, np.random.default_rng(0))
    theirs = torch.stack([torch.tensor(np.bincount(g, minlength=7) / n) for g in drawn.T])
    # Two frequencies of n draws each differ by sqrt(2 p (1 - p) / n), at most 0.0092.
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5 * 0.0092)
    first = task.places()
    torch.testing.assert_close(ours[0].double(), first, rtol=0, atol=5 * 0.0065)
    exponent = math.log(first[3] / first[0]) / math.log(4)
    assert exponent == pytest.approx(power - 1)


def test_mqar_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least four times the pairs"):
        MQAR(n_pairs=5, length=18, vocab=64)
    with pytest.raises(ValueError, match="must be even"):
        MQAR(n_pairs=2, length=17, vocab=64)
    with pytest.raises(ValueError, match="a vocabulary of 12 has 5"):
        MQAR(n_pairs=6, length=64, vocab=12)


def test_induction_asks_what_followed_the_mark():
    task = Induction(n_symbols=5, length=9)
    batch, places = task.batch(300, seeded()), set()
    for tokens, targets in zip(*(x.tolist() for x in batch), strict=True):
        first, last = (t for t in range(9) if tokens[t] == 5)
        assert last == 8 and targets == [IGNORE] * 8 + [tokens[first + 1]]
        places.add(first)
    assert places == set(range(7)) and task.word(5) == "#"
    with pytest.raises(ValueError, match="3 tokens"):
        Induction(length=2)


@pytest.mark.parametrize("length", [12, 13])
@pytest.mark.parametrize("decoys", [0, 2])
@pytest.mark.parametrize("depth", [None, 0.0, 0.5, 1.0])
def test_a_needle_is_where_depth_says(depth, decoys, length):
    task = Needle(n_keys=4, n_values=5, n_fillers=3, length=length, depth=depth, decoys=decoys)
    batch, ages = task.batch(300, seeded()), set()
    for tokens, targets, age in zip(*(x.tolist() for x in batch), strict=True):
        *hay, key = tokens
        pairs = {hay[t]: (t, hay[t + 1]) for t in range(length - 1) if hay[t] < 4}
        assert len(pairs) == 1 + decoys and sum(4 <= token < 9 for token in hay) == 1 + decoys
        t, value = pairs[key]
        assert targets == [IGNORE] * (length - 1) + [value] and 4 <= value < 9
        assert age[-1] == length - 1 - (t + 1) and set(age[:-1]) == {IGNORE}
        ages.add(age[-1])
    oldest = length - 2 - (length - 1) % 2
    expected = {0.0: {oldest}, 1.0: {1}}.get(depth)
    assert ages == expected if expected else len(ages) == (1 if depth else 5 + length % 2)


def test_a_needle_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"depth is 1\.5"):
        Needle(depth=1.5)
    with pytest.raises(ValueError, match="decoys and the needle need"):
        Needle(n_keys=3, decoys=3)


def test_fuzzy_recall_asks_for_each_token_of_a_value():
    """Cut into words at each change between keys and values, a dict answers every question."""
    task = FuzzyRecall(n_key_tokens=5, n_value_tokens=6, n_pairs=3, longest=3)
    tokens, targets = task.batch(300, seeded())
    assert tokens.shape == (300, task.length)
    lengths, nested = [], 0
    for row, asked in zip(tokens.tolist(), targets.tolist(), strict=True):
        last = next(t for t in reversed(asked) if t != IGNORE)
        story = [token for token in [*row, last] if token != task.vocab - 1]
        words = []
        for before, token in zip([None, *story], story, strict=False):
            if before is None or (before < 5) != (token < 5):
                words.append([])
            words[-1].append(token)
        pairs = list(zip(words[0::2], words[1::2], strict=True))
        memory = {tuple(key): value for key, value in pairs[:3]}
        assert len(pairs) == 6 and len(memory) == 3
        assert sorted(pairs[3:]) == sorted((list(k), v) for k, v in memory.items())
        answers = [token for key, value in pairs[3:] for token in memory[tuple(key)]]
        assert [t for t in asked if t != IGNORE] == answers
        assert asked[-1] != IGNORE
        for word in words[:6]:
            assert len(set(word)) == len(word)
        lengths += [len(value) for value in memory.values()]
        nested += any(a != b and b[: len(a)] == a for a in memory for b in memory)
    # As in MAD, the lengths 1, 2 and 3 are equally frequent: 900 draws, standard error 0.016.
    often = np.bincount(lengths, minlength=4)[1:] / len(lengths)
    assert abs(often - 1 / 3).max() < 5 * 0.016
    assert nested > 10
    with pytest.raises(ValueError, match="longest is 9"):
        FuzzyRecall(longest=9)


@pytest.mark.parametrize("n_items", [2, 3, 4])
def test_permutations_move_real_items(n_items):
    """A list of items, permuted token by token, says what each target says."""
    task = Permutations(n_items, 9)
    batch = task.batch(40, seeded())
    for tokens, targets in zip(*(x.tolist() for x in batch), strict=True):
        items = list(range(n_items))
        for token, target in zip(tokens, targets, strict=True):
            items = [items[i] for i in task.orders[token]]
            assert tuple(items) == task.orders[target]
    assert task.word(0) == "abcd"[:n_items] and task.chance == 1 / task.vocab
    if n_items == 2:
        assert batch.targets.equal(batch.tokens.cumsum(1) % 2)  # parity


@pytest.mark.parametrize("modulus", [2, 3, 7])
def test_counting_turns_a_wheel(modulus):
    batch = ModularCount(modulus, 9).batch(50, seeded())
    for tokens, targets in zip(*(x.tolist() for x in batch), strict=True):
        assert targets == [sum(tokens[: t + 1]) % modulus for t in range(9)]
    assert set(batch.tokens.flatten().tolist()) == set(range(modulus))
    if modulus == 2:
        assert all(x.equal(y) for x, y in zip(batch, Parity(9).batch(50, seeded()), strict=True))


def test_regression_in_context_is_solved_by_least_squares_after_dim_points():
    task = LinearRegression(dim=3, n_points=7)
    batch = task.batch(4000, seeded())
    assert batch.tokens.shape == (4000, 14, 4) and batch.targets.shape == (4000, 14)
    y = batch.targets[:, 0::2]
    assert batch.targets[:, 1::2].isnan().all() and not y.isnan().any()
    assert batch.tokens[:, 1::2, 0].equal(y)
    assert batch.tokens[0, :, -1].tolist() == [0.0, 1.0] * 7
    # y = w·x has the mean square dim = 3; y² has a standard deviation of about 8 in 28,000 draws.
    assert y.square().mean().item() == pytest.approx(3, abs=0.4)
    error = (task.least_squares(batch) - y).square().mean(0)
    assert error[0].item() == pytest.approx(y[:, 0].square().mean().item())
    # A fit to i points leaves w unknown in dim - i of dim directions.
    for i in (1, 2):
        assert error[i].item() == pytest.approx(3 - i, abs=0.3)
    assert error[3:].max() < 1e-3 * error[0]


def test_noise_leaves_least_squares_an_error():
    task = LinearRegression(dim=2, n_points=6, noise=0.5)
    batch = task.batch(2000, seeded())
    error = (task.least_squares(batch) - batch.targets[:, 0::2]).square().mean(0)
    assert error[-1] > 0.5**2


def test_a_model_of_vectors_learns_regression():
    torch.manual_seed(0)
    task = LinearRegression(dim=1, n_points=4)
    ffn = lambda d: MLP(d, d_ff=32)  # noqa: E731
    model = VectorModel(2, 1, 16, [Attention] * 2, ffn)
    assert model(task.batch(3, seeded()).tokens)[0].shape == (3, 8, 1)
    history = train(model, task, steps=250, batch_size=32, lr=1e-2, show=False)
    assert history.loss[0] > 0.5
    # Without a first example the best is 0: of 4 points, 3 can be explained.
    assert 0.4 < accuracy(model, task.batch(2000, seeded(1))) < 0.78


def test_a_model_of_vectors_decodes_token_by_token():
    torch.manual_seed(0)
    model = VectorModel(3, 1, 8, [Attention] * 2).double()
    x, states, parts = torch.randn(2, 5, 3, dtype=torch.float64), None, []
    for t in range(5):
        y, states = model(x[:, t : t + 1], states)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x)[0], rtol=0, atol=1e-12)


def test_the_target_is_the_letter_of_the_highest_bid_so_far():
    task = Largest(n_bids=4, n_letters=3, length=20)
    batch = task.batch(50, seeded())
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        held, letter = -1, None
        for token, target in zip(tokens, targets, strict=True):
            if token // 3 >= held:  # of equal bids the latest counts
                held, letter = token // 3, token % 3
            assert target == letter
    bids = (task.batch(2000, seeded()).tokens // 3).flatten().bincount() / 40_000
    expected = torch.tensor([8, 4, 2, 1]) / 15
    assert (bids - expected).abs().max() < 0.01  # four standard errors of the largest share
    assert task.word(7) == "b2" and task.vocab == 12


def test_mixed_draws_whole_batches_of_each():
    task = Mixed((MQAR(2, 16, 32), MQAR(4, 16, 32)))
    assert task.vocab == 32
    rng, counts = seeded(), []
    for _ in range(100):
        asked = (task.batch(3, rng).targets != IGNORE).sum(1)
        assert len(set(asked.tolist())) == 1
        counts.append(asked[0].item())
    assert set(counts) == {2, 4} and 30 < counts.count(2) < 70


def test_the_figure_has_an_example_of_each():
    tasks = TASKS | {"regression": LinearRegression(2, 4)}
    fig = task_examples(tasks, longest=16)
    assert fig.to_json() == task_examples(tasks, longest=16).to_json()
    assert list(fig.layout.yaxis.ticktext) == list(tasks)
    z, said = fig.data[0].z, fig.layout.annotations
    for y, (name, task) in enumerate(tasks.items()):
        targets = task.batch(1, seeded()).targets[0]
        asked = ~targets.isnan() if name == "regression" else targets != IGNORE
        assert sum(v == 1 for v in z[y]) == asked[-15 if len(asked) > 16 else 0 :].sum()
        row = [a.text for a in said if a.y == y]
        assert len(row) == min(len(targets), 16)
        assert sum("<b>" in text for text in row) == sum(v == 1 for v in z[y])
    escaped = task_examples({"text": Text(b"<<<<<<", 3)}).layout.annotations
    assert [a.text.split("<br>")[0] for a in escaped] == ["&lt;"] * 3
