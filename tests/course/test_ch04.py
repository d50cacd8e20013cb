"""Chapter 04: what is right in its values but not in its way does not pass; wrong answers are
called by their name.
"""

import pytest
import torch

import seqlab.core.recurrence as core
from seqlab.course import exercises
from seqlab.course.checking import report_on
from seqlab.course.exercises.ch04 import shared as ch04


def told(id, answer):
    report = report_on(exercises.find(id), answer)
    assert report.earned == 0, report
    return report.kind, report.message


def distances(T):
    n = torch.arange(T)
    return n[:, None] - n


def assigned(D):
    D[:, distances(D.shape[-1]) < 0] = 0
    return D


MASKED_AFTER = {
    "exp, then tril": lambda gamma, T: (distances(T) * gamma.log()[:, None, None]).exp().tril(),
    "a power, then tril": lambda gamma, T: (gamma[:, None, None] ** distances(T)).tril(),
    "exp, then masked_fill": lambda gamma, T: (
        (distances(T) * gamma.log()[:, None, None]).exp().masked_fill(distances(T) < 0, 0)
    ),
    "exp, then an assignment": lambda gamma, T: assigned(
        (distances(T) * gamma.log()[:, None, None]).exp()
    ),
    "where": lambda gamma, T: torch.where(
        distances(T) < 0, 0.0, gamma[:, None, None] ** distances(T)
    ),
}


@pytest.mark.parametrize("name", MASKED_AFTER)
def test_a_mask_after_the_exponential_fails_by_its_gradient(name):
    kind, message = told("04.4", MASKED_AFTER[name])
    in_place = name == "exp, then an assignment"  # the gradient of exp needs what exp returned
    said = "was changed in place" if in_place else "the gradient of γ is not finite"
    assert kind == "effort" and said in message


def test_a_mask_made_without_gradients_is_refused():
    """Retention trains γ in this exercise's models."""
    kind, message = told("04.4", torch.no_grad()(ch04.decay_mask_reference))
    assert kind == "effort" and "the gradient with respect to gamma is not" in message


def forms(gamma, q):
    return {"log_a": gamma.log()[:, None].expand(*q.shape[:3], 1)}


def fold(q, k, v, gamma, state=None, chunk_size=64):
    return core.recurrent(q, k, v, **forms(gamma, q), state=state)


def every_pair(q, k, v, gamma, state=None, chunk_size=64):
    return core.parallel(q, k, v, **forms(gamma, q), state=state)


def chunks_of(C):
    def answer(q, k, v, gamma, state=None, chunk_size=64):
        return core.chunkwise(q, k, v, **forms(gamma, q), state=state, chunk_size=C)

    return answer


@pytest.mark.parametrize(
    "answer, words",
    [
        (fold, "token by token"),
        (chunks_of(4), "chunks of a few"),
        (chunks_of(64), "is chunk_size used"),
        (every_pair, "builds all 1024 x 1024 pairs"),
        (chunks_of(4096), "builds all 1024 x 1024 pairs"),
    ],
)
def test_the_chunkwise_form_takes_nothing_but_chunks(answer, words):
    kind, message = told("04.9", answer)
    assert kind == "effort" and words in message


GROWING = {
    "linspace": lambda K: 10000 ** torch.linspace(0, 1, K // 2),
    "arange": lambda K: 10000 ** (torch.arange(K // 2) / (K // 2 - 1)),
    "float64": lambda K: 10000 ** torch.linspace(0, 1, K // 2, dtype=torch.float64),
}


@pytest.mark.parametrize("theta", GROWING.values(), ids=GROWING)
def test_angles_that_grow_are_called_so_however_they_are_rounded(theta):
    def rotate(x, start):
        angle = (torch.arange(start, start + x.shape[1])[:, None] * theta(x.shape[-1]))[
            :, None
        ].float()
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack(
            [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1
        ).flatten(-2)

    _, message = told("04.7", rotate)
    assert "Your θ grows from 1 to 10000: the exponent lacks its minus." in message
    assert "dot products" not in message


def test_a_step_that_changes_the_state_it_was_given_fails():
    def step(S, q, k, v, gamma):
        S *= gamma[:, None, None]
        S += v[..., None] * k[..., None, :]
        return torch.einsum("bhvk, bhk -> bhv", S, q), S

    assert told("04.3", step)[0] == "in place"


@pytest.mark.parametrize("id", ["04.4", "04.5", "04.6", "04.7"])
def test_a_message_names_a_small_case(id):
    case = exercises.find(id).inputs_with(torch.Generator().manual_seed(0))[0]
    assert max(x.numel() for x in case.inputs.values() if isinstance(x, torch.Tensor)) <= 16
