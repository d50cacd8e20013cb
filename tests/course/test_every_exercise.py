"""Every exercise of the course is proven: right answers pass, each mistake is named, each misuse
gets a sentence.
"""

import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.course import exercises
from seqlab.course.answer import plan
from seqlab.course.checking import report_on
from seqlab.course.grade import SEED

ALL = [e for chapter in exercises.chapters() for e in exercises.of_chapter(chapter)]
FUNCTIONS = [e for e in ALL if not e.numeric]
NUMBERS = [e for e in ALL if e.numeric]
every = pytest.mark.parametrize("e", ALL, ids=lambda e: e.id)
every_function = pytest.mark.parametrize("e", FUNCTIONS, ids=lambda e: e.id)
seeds = pytest.mark.parametrize("seed", [0, SEED], ids=["check", "grade"])


@seeds
@every
def test_the_reference_and_every_alternative_pass(e, seed):
    for answer in (e.reference, *e.alternatives):
        report = report_on(e, answer, seed)
        assert report.passed, report
        assert not report.notes, report.notes  # and they change no input


@seeds
@pytest.mark.parametrize(
    "e, sentence",
    [(e, s) for e in ALL for s in e.mistakes],
    ids=lambda x: getattr(x, "id", None) or x[:40],
)
def test_every_named_mistake_fails_with_its_own_sentence(e, sentence, seed):
    report = report_on(e, e.mistakes[sentence], seed)
    assert report.earned == 0
    assert (report.kind, report.message) == ("mistake", sentence)


class Work(TorchDispatchMode):
    """Counts the torch operations called inside it, and the numbers that they make."""

    calls = numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        for x in made if isinstance(made, tuple | list) else (made,):
            self.numbers += x.numel() if isinstance(x, torch.Tensor) else 0
        return made


@every
def test_a_check_costs_little_work(e):
    """A check should answer in a second or two. Counted, not timed, so that the processor does not
    matter: an operation of torch costs some 10 µs, a number that it makes some 5 ns.
    """
    for answer in (
        e.reference,
        *list(e.mistakes.values())[-1:],
        0.5 if e.numeric else lambda **inputs: None,
    ):
        with Work() as work:
            report_on(e, answer)
        assert work.calls <= 150_000 and work.numbers <= 100_000_000


def first(e, change):
    """The right answer with its first output changed."""

    def answer(**inputs):
        right = e.reference(**inputs)
        return (change(right[0]), *right[1:]) if isinstance(right, tuple) else change(right)

    return answer


def on_all(e, change):
    def answer(**inputs):
        right = e.reference(**inputs)
        return tuple(change(x) for x in right) if isinstance(right, tuple) else change(right)

    return answer


def wrong_answers(e):
    """(what, the kinds that may be said, words in the sentence, the answer)."""

    def stub(**inputs):
        raise NotImplementedError(f"exercise {e.id}: your code here")

    def crash(**inputs):
        raise KeyError("no such thing")

    name = e.outputs[0]
    yield "stub", {"not started"}, "Not started", stub
    yield "exception", {"exception"}, "KeyError: 'no such thing'", crash
    yield (
        "other parameters",
        {"exception"},
        "keep the names of its parameters",
        lambda nothing_like_it: None,
    )
    yield "None", {"none"}, "returned None", lambda **inputs: None
    yield "nan", {"nan"}, f"{name} holds NaN", first(e, lambda x: x * float("nan"))
    yield "shape", {"shape"}, f"{name} has shape", first(e, lambda x: x[None])
    yield "dtype", {"dtype"}, "int64", first(e, lambda x: x.long())
    yield "zeros", {"constant", "mistake", "handed back"}, "", on_all(e, lambda x: 0 * x)


@every_function
def test_every_misuse_gets_a_clear_sentence_of_its_own(e):
    sentences = []
    for what, kinds, words, answer in wrong_answers(e):
        report = report_on(e, answer)
        assert report.kind in kinds and report.earned == 0, f"{what}: {report}"
        assert words in report.message, f"{what}: {report}"
        sentences.append(report.message)
    assert len(set(sentences)) == len(sentences)


@every_function
def test_an_input_handed_back_is_never_right(e):
    _, inputs = plan(e, 0)
    for name in (name for name, x in inputs[0].items() if isinstance(x, torch.Tensor)):
        report = report_on(e, lambda name=name, **inputs: inputs[name])
        assert report.kind in {"handed back", "count", "mistake"} and report.earned == 0, report


@pytest.mark.parametrize("e", NUMBERS, ids=lambda e: e.id)
def test_a_number_that_is_missing_or_wrong_is_told_so(e):
    assert report_on(e, ...).kind == "not started"
    for answer, kind in (
        (float("nan"), "nan"),
        (e.reference * 1.37 + 11, "value"),
        ("many", "type"),
        (None, "type"),
    ):
        report = report_on(e, answer)
        assert report.kind == kind and report.message and report.earned == 0, report


@every
def test_inputs_can_be_sent_to_the_graders_kernel(e):
    pickle.loads(pickle.dumps(plan(e, SEED)[1]))


@pytest.mark.parametrize("chapter", exercises.chapters())
def test_ids_run_from_one_and_names_are_used_once(chapter):
    found = exercises.of_chapter(chapter)
    assert [e.id for e in found] == [f"{chapter}.{i}" for i in range(1, len(found) + 1)]
    assert len({e.name for e in found}) == len(found)


@every
def test_cases_differ_in_more_than_their_numbers(e):
    """A check on one shape only would pass answers that are right by luck."""
    if not e.numeric:
        cases, _ = plan(e, 0)
        assert len({c.name for c in cases}) == len(cases) >= 2


def test_an_unknown_id_names_its_neighbours():
    with pytest.raises(ValueError, match=r"no exercise '03.99': did you mean 03\."):
        exercises.find("03.99")
