"""Figures of chapter 10: what they show is what they were given."""

import math

import pytest
import torch

from seqlab.figures import xlstm


def test_the_normaliser_is_the_sum_that_it_says():
    i, log_f = torch.randn(12, dtype=torch.float64), -torch.rand(12, dtype=torch.float64)
    n, m, sums, kept = 0.0, -math.inf, [], []
    for i_t, f_t in zip(i.tolist(), log_f.tolist(), strict=True):
        n = n * math.exp(f_t) + math.exp(i_t)
        m = max(m + f_t, i_t)
        sums.append(math.log(n))
        kept.append(math.log(n) - m)
    whole, scaled = xlstm.log_normaliser(i, log_f)
    torch.testing.assert_close(whole, torch.tensor(sums, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled, torch.tensor(kept, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (scaled >= 0).all() and (scaled <= torch.arange(1, 13).log() + 1e-12).all()


def test_the_title_counts_what_float16_cannot_hold():
    i, log_f = torch.tensor([0.0, 2.0, -9.0]), torch.zeros(3)
    fig = xlstm.sizes_at(6, i, log_f)  # ln n: 0, 12, 12; float16 ends at 11.09
    assert "2 of 3 tokens" in fig.layout.title.text
    assert xlstm.LARGEST["float16"] == pytest.approx(11.0899, abs=1e-4)
    book = xlstm.sizes(i, log_f, [1, 6], start=1)
    assert [frame.name for frame in book.frames] == ["1", "6"]


def test_each_read_shares_out_one():
    i, log_f = torch.randn(7), -torch.rand(7)
    W = xlstm.weights(i, log_f)
    torch.testing.assert_close(W.sum(1), torch.ones(7, dtype=torch.float64))
    assert W.triu(1).abs().max() == 0
    ratio = W[6, 2] / W[6, 5]
    expected = (i[2] - i[5] + log_f[3:6].sum()).double().exp()
    torch.testing.assert_close(ratio, expected, rtol=1e-5, atol=0)


def test_loudness_takes_over_the_read():
    shares = []
    for loudness in (0.0, 3.0, 6.0):
        fig = xlstm.loud_at(loudness, 0.9, "ab!cd")
        assert fig.to_json() == xlstm.loud_at(loudness, 0.9, "ab!cd").to_json()
        shares.append(int(fig.layout.title.text.split()[-1].rstrip("%")))
    assert shares == sorted(shares) and shares[0] < 25 and shares[-1] > 95
