import copy
import math
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqlab.ffn import DeepSeekV3Router, MixtralRouter, MoE, auxiliary_loss
from seqlab.mixers import LinearAttention, RetNet
from seqlab.model import LanguageModel
from seqlab.tasks import (
    IGNORE,
    Clusters,
    DelayedCopy,
    Names,
    Parity,
    Recall,
    SelectiveCopy,
    Text,
    ngram_bits,
    python_help,
)
from seqlab.train import (
    accuracy,
    accuracy_by,
    best_seconds,
    bits_per_byte,
    evaluate,
    seconds_per_step,
    train,
)


def test_recall_asks_for_the_latest_value():
    """Replays each sequence with a dict, the most literal memory there is."""
    task = Recall(n_keys=5, n_values=3, n_pairs=12)
    batch = task.batch(50, torch.Generator().manual_seed(0))
    assert batch.tokens.max() < task.vocab
    for tokens, targets, age, overwrites in zip(*(x.tolist() for x in batch), strict=True):
        memory, written, count = {}, {}, {}
        for t, token in enumerate(tokens[:12]):
            key, value = divmod(token, 3)
            count[key] = count.get(key, -1) + 1
            memory[key], written[key] = value, t
        assert sorted(tokens[12:]) == list(range(15, 20))
        for t, token in enumerate(tokens[12:], start=12):
            key = token - 15
            expected = (IGNORE,) * 3
            if key in memory:
                expected = memory[key] + 20, t - written[key], count[key]
            assert (targets[t], age[t], overwrites[t]) == expected
        assert targets[:12] == [IGNORE] * 12


def test_recall_without_overwriting_writes_each_key_at_most_once():
    task = Recall(n_keys=6, n_values=3, n_pairs=4, overwrite=False)
    batch = task.batch(50, torch.Generator().manual_seed(0))
    keys = batch.tokens[:, :4] // 3
    assert all(len(set(row)) == 4 for row in keys.tolist())
    assert (batch.overwrites <= 0).all() and ((batch.targets != IGNORE).sum(1) == 4).all()
    with pytest.raises(ValueError, match="7 pairs under 6 keys"):
        Recall(n_keys=6, n_pairs=7, overwrite=False)


def test_a_delayed_copy_asks_once_and_each_symbol_comes_equally_often():
    task = DelayedCopy(n_symbols=4, delay=3)
    tokens, targets = task.batch(9, torch.Generator().manual_seed(0))
    assert tokens.shape == (9, 5) and (tokens[:, 1:4] == task.blank).all()
    assert (tokens[:, -1] == task.vocab - 1).all() and (targets[:, :-1] == IGNORE).all()
    assert targets[:, -1].equal(tokens[:, 0])
    assert sorted(torch.bincount(tokens[:, 0], minlength=4).tolist()) == [2, 2, 2, 3]
    again = task.batch(9, torch.Generator().manual_seed(1)).tokens
    assert not again.equal(tokens)


@pytest.mark.parametrize("at_random", [True, False])
def test_a_selective_copy_asks_for_the_latest_symbol_first(at_random):
    task = SelectiveCopy(n_symbols=5, n_marked=3, length=8, at_random=at_random)
    batch = task.batch(60, torch.Generator().manual_seed(0))
    places = set()
    for tokens, targets in zip(*(x.tolist() for x in batch), strict=True):
        said = [token for token in tokens[:8] if token != 5]
        assert len(said) == 3 and max(said) < 5
        assert tokens[8:] == [6, 7, 8] and targets[8:] == said[::-1]
        assert targets[:8] == [IGNORE] * 8
        places.add(tuple(t for t in range(8) if tokens[t] != 5))
    assert len(places) > 20 if at_random else places == {(0, 1, 2)}
    assert [task.word(token) for token in (0, 5, 6, 8)] == ["a", "·", "?1", "?3"]


def test_names_asks_for_the_latest_name():
    """Replays each text with one variable, the most literal memory there is."""
    task = Names(n_names=3, n_fillers=2, length=40, names=0.2, questions=0.3)
    batch = task.batch(50, torch.Generator().manual_seed(0))
    assert (batch.tokens[:, 0] < 3).all() and batch.tokens.max() < task.vocab == 6
    for row in zip(*(x.tolist() for x in batch), strict=True):
        latest = before = None
        for t, (token, target, age, gap) in enumerate(zip(*row, strict=True)):
            if token < 3:
                latest, before = (t, token), latest
            expected = (IGNORE,) * 3
            if token == 5:
                expected = latest[1], t - latest[0], latest[0] - before[0] if before else 0
            assert (target, age, gap) == expected
    rates = [(batch.tokens < 3).float().mean(), (batch.tokens == 5).float().mean()]
    assert rates[0] > 0.15 and rates[1] > 0.25
    assert [task.word(token) for token in (0, 2, 3, 4, 5)] == ["a", "c", "·", "·", "?"]


def test_seconds_per_step_has_a_number_for_each_model_and_length():
    from seqlab.mixers import GRU, Elman

    models = {"Elman": Elman(4), "GRU": GRU(4)}
    seconds = seconds_per_step(models, [2, 8], tokens=16, width=4, rounds=1)
    assert list(seconds) == ["Elman", "GRU"] and all(list(s) == [2, 8] for s in seconds.values())
    assert all(0 < t < float("inf") for s in seconds.values() for t in s.values())


def test_training_is_reproducible_and_learns():
    task = Recall(4, 4, 6)

    def run():
        torch.manual_seed(0)
        model = LanguageModel(task.vocab, 32, [partial(RetNet, n_heads=2)], ffn=None)
        return model, train(model, task, steps=60, lr=1e-2)

    (model, history), (_, again) = run(), run()
    assert history.loss == again.loss and len(history.loss) == 60
    batch, right = evaluate(model, task, n=200)
    assert right.sum() / (batch.targets != IGNORE).sum() > 0.5 > 0.25  # chance is a quarter
    assert not (right & (batch.targets == IGNORE)).any()


@pytest.mark.parametrize(
    "router", [MixtralRouter, partial(DeepSeekV3Router, top_k=2, n_groups=1, top_groups=1)]
)
def test_training_balances_a_mixture_as_its_router_asks(router):
    """Mixtral's by a second loss, DeepSeek-V3's by its bias; the task's loss alone is recorded."""
    torch.manual_seed(0)
    task = Recall(4, 4, 6)
    ffn = partial(MoE, n_experts=4, router=router, d_ff=8)
    model = LanguageModel(task.vocab, 16, [partial(RetNet, n_heads=2)], ffn=ffn)
    moe = model.blocks[0].ffn
    bias = getattr(moe.router, "bias", torch.zeros(4)).clone()
    before = copy.deepcopy(model)
    history = train(model, task, steps=1, batch_size=4, lr=0.0)
    batch = task.batch(4, torch.Generator().manual_seed(0))
    logits, _ = before(batch.tokens)
    alone = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)
    assert history.loss == [pytest.approx(alone.item(), rel=1e-6)]
    if isinstance(moe.router, DeepSeekV3Router):
        assert not torch.equal(moe.router.bias, bias)
    else:
        loss = alone + auxiliary_loss(before)
        with_balance = torch.autograd.grad(loss, list(before.parameters()))
        norm = torch.stack([g.norm() for g in with_balance]).norm().item()
        scale = min(1.0, 1.0 / (norm + 1e-6))  # clipped
        for p, g in zip(model.parameters(), with_balance, strict=True):
            torch.testing.assert_close(p.grad, scale * g, rtol=1e-4, atol=1e-6)


def test_a_memory_that_never_forgets_cannot_tell_old_from_new():
    """Each key is written four times on average; linear attention averages, a decay prefers new."""
    task, accuracy = Recall(4, 4, 16), {}
    for name, mixer in {"linear": LinearAttention, "retnet": RetNet}.items():
        torch.manual_seed(0)
        model = LanguageModel(task.vocab, 32, [partial(mixer, n_heads=2)], ffn=None)
        train(model, task, steps=150, lr=1e-2)
        batch, right = evaluate(model, task)
        accuracy[name] = (right.sum() / (batch.targets != IGNORE).sum()).item()
    assert accuracy["retnet"] > accuracy["linear"] + 0.1


def test_words_and_tokens_name_each_other():
    task = Recall(n_keys=3, n_values=4, n_pairs=5)
    words = [task.word(token) for token in range(task.vocab)]
    assert words[:5] == ["a0", "a1", "a2", "a3", "b0"] and words[-5:-3] == ["c?", "=0"]
    assert len(set(words)) == task.vocab
    assert [task.token(word) for word in words] == list(range(task.vocab))
    with pytest.raises(ValueError, match="no token says 'd1'"):
        task.token("d1")


def test_a_vote_is_the_share_of_the_most_frequent_value():
    task = Recall(n_keys=3, n_values=4, n_pairs=5)
    said = ["a1", "b0", "a1", "a2", "b3", "a?", "b?", "c?"]
    tokens = torch.tensor([[task.token(word) for word in said]])
    batch = task.batch(1, torch.Generator())._replace(tokens=tokens)
    share = task.vote(batch)[0]
    torch.testing.assert_close(share[5:7], torch.tensor([2 / 3, 1 / 2]))
    assert share[7].isnan() and (share[:5] == 0).all()


@pytest.mark.parametrize("older", [False, True])
def test_a_probe_asks_for_the_value_that_was_written_last(older):
    task = Recall(n_keys=3, n_values=4)
    batch = task.probe(6, older=older, n=20)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        words = [task.word(token) for token in tokens]
        assert words[-1] == "a?" and len(words) == 8 + older
        of_a = [word[1] for word in words[:-1] if word[0] == "a"]
        assert len(of_a) == 1 + older and len(set(of_a)) == len(of_a)
        assert task.word(targets[-1]) == f"={of_a[-1]}" and set(targets[:-1]) == {IGNORE}


def test_accuracy_counts_questions_only_and_can_be_split():
    task = Recall(n_keys=3, n_values=4, n_pairs=5)
    model = LanguageModel(task.vocab, 8, [partial(LinearAttention, n_heads=2)], ffn=None)
    batch, right = evaluate(model, task, n=200)
    asked = batch.targets != IGNORE
    assert accuracy(model, batch) == pytest.approx(right[asked].double().mean().item())
    split = accuracy_by(right, batch, batch.overwrites, [0, 1])
    expected = [right[asked & (batch.overwrites == n)].double().mean().item() for n in (0, 1)]
    assert split == pytest.approx(expected)


def test_text_asks_for_the_next_byte():
    task = Text(b"the quick brown fox", n_tokens=5)
    batch = task.batch(20, torch.Generator().manual_seed(0))
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        whole = bytes([*tokens, targets[-1]])
        assert whole in task.data and tokens[1:] == targets[:-1]
    assert len({bytes(row) for row in batch.tokens.tolist()}) > 5  # from different places
    with pytest.raises(ValueError, match="more than n_tokens"):
        Text(b"short", n_tokens=5).batch(1, torch.Generator())


def test_the_help_of_python_is_english():
    text = python_help()
    assert len(text) > 300_000 and text.count(b" the ") > 1000 and text == python_help()


def test_ngram_bits_by_hand():
    """Witten and Bell: of N followers, D different, a seen one has (n + D · shorter) / (N + D)."""
    one = (2 + 2 / 256) / (3 + 2)  # "aab": a twice, b once
    assert ngram_bits(b"aab", b"a", 1) == pytest.approx(-math.log2(one))
    two = (1 + 2 * one) / (2 + 2)  # after a: a once, b once
    assert ngram_bits(b"aab", b"aa", 2) == pytest.approx(-math.log2(two))
    unseen = (0 + 2 / 256) / 5
    assert ngram_bits(b"aab", b"z", 1) == pytest.approx(-math.log2(unseen))


def test_ngram_bits_is_a_distribution():
    """Over all bytes that may come next, the probabilities add up to 1."""
    train = b"abracadabra alakazam"
    total = sum(2 ** -ngram_bits(train, b"ab" + bytes([c]), 3) for c in range(256))
    assert total == pytest.approx(1)


def test_parity_counts_the_ones():
    batch = Parity(9).batch(20, torch.Generator().manual_seed(0))
    for bits, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert targets == [sum(bits[: t + 1]) % 2 for t in range(9)]
    assert 0.3 < batch.targets.float().mean() < 0.7


def test_best_seconds_takes_the_shortest_of_some_rounds():
    pauses = iter([0.05, 0.0, 0.02])
    assert 0 < best_seconds(lambda: time.sleep(next(pauses)), rounds=3) < 0.02


def test_bits_per_byte_is_the_models_own_probability():
    """Byte by byte, each piece from an empty state; 9 bytes have 8 targets, two pieces of 4."""
    torch.manual_seed(0)
    model, data = LanguageModel(256, 8, [partial(RetNet, n_heads=2)], ffn=None), b"abracadab"
    bits = 0.0
    for start in (0, 4):
        logits, _ = model(torch.tensor([list(data[start : start + 4])]))
        for t, p in enumerate(logits.softmax(-1)[0]):
            bits -= math.log2(p[data[start + t + 1]].item())
    assert bits_per_byte(model, data, 4) == pytest.approx(bits / 8, rel=1e-5)
    assert bits_per_byte(model, data + b"xy", 4) == pytest.approx(bits / 8, rel=1e-5)


def test_each_cluster_has_a_law_of_its_own():
    task = Clusters(n_clusters=3, width=4, seed=5)
    batch = task.batch(600, torch.Generator().manual_seed(0))
    centres, _ = task.laws()
    for c in range(3):
        x, y = batch.x[batch.cluster == c], batch.y[batch.cluster == c]
        fitted = torch.linalg.lstsq(x, y).solution
        torch.testing.assert_close(x @ fitted, y, rtol=0, atol=1e-4)
        assert (x.mean(0) - centres[c]).abs().max() < 0.2  # 4 standard errors of 0.5 / √200
        others = batch.cluster != c
        assert (batch.x[others] @ fitted - batch.y[others]).square().mean() > 0.1
    assert Clusters(seed=6).laws()[0].ne(Clusters(seed=7).laws()[0]).any()
