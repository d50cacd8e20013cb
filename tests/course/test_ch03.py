"""Chapter 03: right values by a way that the exercise rules out do not pass, and the properties
speak the truth.
"""

import pytest
import torch

import seqlab.core.recurrence as core
from seqlab.course import exercises
from seqlab.course.answer import answers, plan
from seqlab.course.checking import report_on
from seqlab.course.exercises.ch03 import shared as ch03


def fold(q, k, v, state=None, chunk_size=4):
    return core.recurrent(q, k, v, state=state)


def every_pair(q, k, v, state=None, chunk_size=4):
    return core.parallel(q, k, v, state=state)


def chunks_of(C):
    return lambda q, k, v, state=None, chunk_size=4: core.chunkwise(
        q, k, v, state=state, chunk_size=C
    )


def token_by_token_in_chunks(q, k, v, state=None, chunk_size=4):
    ys = []
    for chunk in zip(*(x.split(chunk_size, dim=1) for x in (q, k, v)), strict=True):
        y, state = core.recurrent(*chunk, state=state)
        ys.append(y)
    return torch.cat(ys, 1), state


@pytest.mark.parametrize(
    "answer, words",
    [
        (fold, "token by token"),
        (token_by_token_in_chunks, "token by token"),
        (chunks_of(4), "chunks of a few"),
        (chunks_of(64), "is chunk_size used"),
        (every_pair, "yours builds all 1024 x 1024 pairs"),
    ],
)
def test_the_chunkwise_form_takes_nothing_but_chunks(answer, words):
    report = report_on(exercises.find("03.10"), answer)
    assert (report.kind, report.earned) == ("effort", 0)
    assert words in report.message


def test_the_parallel_form_takes_no_loop_over_tokens():
    report = report_on(exercises.find("03.7"), lambda q, k, v: core.recurrent(q, k, v)[0])
    assert (report.kind, report.earned) == ("effort", 0)
    assert "token by token" in report.message


def decayed(q, k, v, state=None):
    """Its own halves do give its own whole."""
    return core.recurrent(q, k, v, log_a=torch.full_like(q[..., :1], -0.1), state=state)


def forgets_the_state_it_is_given_when_short(q, k, v, state=None):
    return core.recurrent(q, k, v, state=None if q.shape[1] < 5 else state)


@pytest.mark.parametrize(
    "answer, said", [(decayed, False), (forgets_the_state_it_is_given_when_short, True)]
)
def test_two_halves_are_compared_with_the_answers_own_whole(answer, said):
    exercise = exercises.find("03.6")
    cases, inputs = plan(exercise, 0)
    outcomes = iter(answers(answer, inputs))
    own, held = [next(outcomes).value for _ in cases], []
    for p in exercise.properties:
        for case, first in zip(cases, own, strict=True):
            outputs = [first, *(next(outcomes).value for _ in p.variants(case.inputs))]
            held += [p.holds(case.inputs, outputs)] if p is ch03.HALVES else []
    assert all(held) is not said
