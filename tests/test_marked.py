"""The task of chapter 12: what is asked for stands behind a mark."""

import pytest
import torch

from seqlab.tasks import IGNORE, Marked


def test_the_answers_stand_behind_the_marks_the_latest_first():
    task = Marked(n_symbols=3, n_marked=2, length=10)
    batch = task.batch(40, torch.Generator().manual_seed(0))
    assert batch.tokens.shape == batch.targets.shape == (40, 12)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        words = [task.word(token) for token in tokens]
        places = [i for i, word in enumerate(words) if word == "#"]
        assert len(places) == 2 and all(i % 2 == 0 for i in places)
        assert words[10:] == ["?1", "?2"]
        assert targets[:10] == [IGNORE] * 10
        assert targets[10:] == [tokens[i + 1] for i in reversed(places)]


def test_marks_need_room():
    with pytest.raises(ValueError, match="at least twice the marks"):
        Marked(n_marked=3, length=4)
