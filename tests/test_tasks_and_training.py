from functools import partial

import torch

from seqlab.mixers import LinearAttention, RetNet
from seqlab.model import LanguageModel
from seqlab.tasks import IGNORE, Recall
from seqlab.train import evaluate, train


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
            expected = (memory[key] + 20, t - written[key], count[key]) if key in memory else (IGNORE,) * 3
            assert (targets[t], age[t], overwrites[t]) == expected
        assert targets[:12] == [IGNORE] * 12


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


def test_a_memory_that_never_forgets_cannot_tell_old_from_new():
    """With every key written four times on average, linear attention averages what decay tells apart."""
    task, accuracy = Recall(4, 4, 16), {}
    for name, mixer in {"linear": LinearAttention, "retnet": RetNet}.items():
        torch.manual_seed(0)
        model = LanguageModel(task.vocab, 32, [partial(mixer, n_heads=2)], ffn=None)
        train(model, task, steps=150, lr=1e-2)
        batch, right = evaluate(model, task)
        accuracy[name] = (right.sum() / (batch.targets != IGNORE).sum()).item()
    assert accuracy["retnet"] > accuracy["linear"] + 0.1
