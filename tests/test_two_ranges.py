"""The task of chapter 11: its answers are in its texts."""

import torch

from seqlab.tasks import TwoRanges
from seqlab.tasks.base import IGNORE


def test_every_answer_is_written_in_the_text():
    task = TwoRanges(n_titles=3, n_keys=5, n_values=4, n_filler=6)
    batch = task.batch(50, torch.Generator().manual_seed(0))
    assert batch.tokens.shape == batch.targets.shape == (50, task.length)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        words = [task.word(token) for token in tokens]
        written = {word[0]: word[1] for word in words[7:12]}
        assert len(written) == 5 and words[1:7] == ["·"] * 6
        for word, target in zip(words[12:17], targets[12:17], strict=True):
            assert task.word(target) == "=" + written[word[0]]
        assert words[17] == "T?" and task.word(targets[17]) == words[0]
        assert targets[:12] == [IGNORE] * 12


def test_each_kind_of_question_can_be_asked_alone():
    task = TwoRanges()
    batch = task.batch(4, torch.Generator().manual_seed(0))
    near, far = batch.only(False).targets, batch.only(True).targets
    assert (near != IGNORE).sum() == 4 * task.n_keys and (far != IGNORE).sum() == 4
    assert batch.tokens.max() < task.vocab
