"""The tasks of chapter 02: a list to be said again, and stories of persons and things."""

import torch

from seqlab.tasks import IGNORE, Copy, Stories


def test_a_list_is_asked_for_in_its_own_order():
    task = Copy(n_symbols=3, length=5)
    tokens, targets = task.batch(40, torch.Generator().manual_seed(0))
    assert tokens.shape == (40, 10) and (tokens[:, 5:] == 3).all() and task.vocab == 4
    assert targets[:, 5:].equal(tokens[:, :5]) and (targets[:, :5] == IGNORE).all()
    assert set(tokens[:, :5].flatten().tolist()) == {0, 1, 2}
    assert [task.word(token) for token in (0, 2, 3)] == ["a", "c", "?"]


def test_a_story_is_answered_by_following_its_persons():
    task = Stories(n_persons=3, n_places=4, n_things=2, n_moves=5)
    batch = task.batch(200, torch.Generator().manual_seed(0))
    assert batch.tokens.shape == (200, 8, 3) and (batch.targets[:, :-1] == IGNORE).all()
    later = 0
    for tokens, answer, support in zip(
        batch.tokens.tolist(), batch.targets[:, -1].tolist(), batch.support.tolist(), strict=True
    ):
        *facts, question = (task.sentence(words).split() for words in tokens)
        at, holder = {}, {}
        for n, (who, does, what) in enumerate(facts):
            if does == "went":
                at[who] = what, n
            else:
                holder[what] = who, n
        who, taken = holder[question[2]]
        assert question[:2] == ["where", "is"]
        assert (task.words[answer], [taken, at[who][1]]) == (at[who][0], support)
        later += at[who][1] > taken
    assert 50 < later < 150  # sometimes the person goes on afterwards, sometimes not
