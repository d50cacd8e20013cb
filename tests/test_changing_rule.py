"""The task of chapter 13: pairs of one rule, then of another."""

import torch

from seqlab.tasks import ChangingRule


def test_each_half_follows_its_own_rule():
    task = ChangingRule(n_pairs=20, d_key=3, d_value=2)
    k, v, clean, rules = task.pairs(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(5, 20))
    torch.testing.assert_close(v, clean, rtol=0, atol=0)
    torch.testing.assert_close(v[:, :10], k[:, :10] @ rules[0].mT)
    torch.testing.assert_close(v[:, 10:], k[:, 10:] @ rules[1].mT)


def test_values_have_variance_1_and_the_noise_is_added():
    task = ChangingRule(n_pairs=50, d_key=4, d_value=3, noise=0.5)
    _, v, clean, _ = task.pairs(2000, torch.Generator().manual_seed(1))
    # 24,000 numbers of the two rules: their mean square is off by 1 % in a standard deviation.
    assert abs(clean.square().mean() - 1) < 0.05
    assert abs((v - clean).std() - 0.5) < 0.01


def test_a_token_asks_and_the_next_one_answers():
    task = ChangingRule(n_pairs=6, d_key=3)
    tokens, targets = task.batch(4, torch.Generator().manual_seed(2))
    assert tokens.shape == (4, 12, 5) and targets.shape == (4, 12)
    assert (tokens[:, 0::2, 3:] == 0).all() and (tokens[:, 1::2, -1] == 1).all()
    torch.testing.assert_close(tokens[:, 0::2, :3], tokens[:, 1::2, :3])
    torch.testing.assert_close(tokens[:, 1::2, 3], targets[:, 0::2])
    assert targets[:, 1::2].isnan().all()
    k = task.pairs(4, torch.Generator().manual_seed(2)).k
    torch.testing.assert_close(tokens[:, 0::2, :3], 3**0.5 * k)
