"""What the picture of RoPE shows is the rotation and its score."""

import pytest
import torch

from seqlab.figures.position import turned_pairs, turning

Q, K = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_arrows_turn_at_their_own_speed_and_keep_their_length():
    here, later = (turned_pairs(Q, K, n, 2, 10000.0) for n in (5, 6))
    for p in range(3):
        turn = 10000 ** (-p / 3)
        x, y = (fig.data[2 * p] for fig in (here, later))
        angle = complex(y.x[1], y.y[1]) / complex(x.x[1], x.y[1])
        expected = torch.polar(torch.tensor(1.0), torch.tensor(turn)).item()
        assert abs(angle - expected) < 0.01


def test_the_titles_score_is_the_same_on_every_page():
    book = turning(Q, K, [2, 10, 50], distance=2)
    scores = {frame.layout.title.text.split("is ")[1] for frame in book.frames}
    assert len(book.frames) == 3 and len(scores) == 1
    assert float(scores.pop()) != pytest.approx((Q @ K).item(), abs=0.01)
