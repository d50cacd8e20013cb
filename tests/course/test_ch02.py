"""Chapter 02: answers that nearly are right do not pass, and right ones of another kind do."""

import pytest
import torch

from seqlab.course import exercises
from seqlab.course.checking import report_on

REFERENCE = {e.name: e.reference for e in exercises.of_chapter("02")}


def by_name(name):
    return next(e for e in exercises.of_chapter("02") if e.name == name)


def elman_in_place(x, W, R, b, h, lengths):
    y, last = REFERENCE["unrolled"](x, W, R, b, h.clone(), lengths)
    h.copy_(last)
    return y, last


def last_state_of_the_padding(x, W, R, b, h, lengths):
    y, _ = REFERENCE["unrolled"](x, W, R, b, h, lengths)
    whole = torch.full_like(lengths, x.shape[1])
    return y, REFERENCE["unrolled"](x, W, R, b, h, whole)[1]


def no_share_for_the_new(x, W, R, b, b_R, h):
    ys = []
    for x_t in x.unbind(1):
        r, z, n = (x_t @ W.mT + b).chunk(3, -1)
        r_h, z_h, n_h = (h @ R.mT + b_R).chunk(3, -1)
        h = (z + z_h).sigmoid() * h + torch.tanh(n + (r + r_h).sigmoid() * n_h)
        ys.append(h)
    return torch.stack(ys, 1), h


def weights_of(memory, k, beta, gamma):
    cosine = torch.cosine_similarity(k[:, :, None], memory[:, None], dim=-1)
    return (beta[..., None] * cosine).softmax(-1) ** gamma[..., None]


def as_the_text_has_it(memory, k, beta, gamma):
    w = weights_of(memory, k, beta, gamma)
    return w / w.sum(-1, keepdim=True)


def with_a_large_floor(memory, k, beta, gamma):
    rows, keys = (u / (u.norm(dim=-1, keepdim=True) + 0.1) for u in (memory, k))
    return ((beta * gamma)[..., None] * (keys @ rows.mT)).softmax(-1)


def shares_of_sums(memory, w, e, a):
    return memory * (1 - w.sum(1)[..., None] * e.sum(1)[:, None]) + w.mT @ a


def low(score):
    def hop(u, facts, A, C, there):
        p = torch.einsum("bk, bnk -> bn", u, facts @ A.mT).masked_fill(~there, score)
        p = p.softmax(-1).nan_to_num() * there
        return u + torch.einsum("bn, bnk -> bk", p, facts @ C.mT), p

    return hop


WRONG = {
    "unrolled": [elman_in_place, last_state_of_the_padding],
    "as_pytorch": [no_share_for_the_new],
    "truncated": [lambda R, u, h, k: REFERENCE["truncated"](R, u, h, k + 1)],
    "content": [weights_of, as_the_text_has_it, with_a_large_floor],
    "erase_and_add": [shares_of_sums],
    "hop": [low(0.0), low(-10.0)],
    "bound": [269, 271],
    "half_life_bias": [7.2, 6.91, 7.3],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_nearly_right_does_not_pass(name):
    e = by_name({"bound": "steps", "half_life_bias": "bias"}.get(name, name))
    for answer in WRONG[name]:
        report = report_on(e, answer)
        assert report.earned == 0 and report.message, answer


def test_a_mask_of_minus_infinity_passes_if_its_nan_is_taken_care_of():
    assert report_on(by_name("hop"), low(-torch.inf)).earned == 2


def test_a_latch_may_be_built_in_whole_numbers():
    W = torch.tensor([[0, 40], [0, -40], [2, 0], [0, 0]])
    b, C = torch.tensor([-20, 20, 0, 20]), 1 / torch.tensor([2.0]).tanh().tanh()
    assert report_on(by_name("latch"), lambda length: (W, torch.zeros(4, 1), b, C)).earned == 4


def test_a_latch_with_a_bias_of_five_forgets():
    W = torch.tensor([[0.0, 25.0], [0.0, -25.0], [2.0, 0.0], [0.0, 0.0]])
    b, C = torch.tensor([-20.0, 5.0, 0.0, 20.0]), 1 / torch.tensor([2.0]).tanh().tanh()
    report = report_on(by_name("latch"), lambda length: (W, torch.zeros(4, 1), b, C))
    assert report.earned == 0 and "forget gate" in report.message
