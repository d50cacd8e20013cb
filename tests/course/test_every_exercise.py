"""Every exercise of the course is proven: right answers pass, each mistake is named, each misuse
gets a sentence.

Each reference, alternative and mistake is asked once per seed: `Proof` judges all answers from that
table.
"""

import ast
import pickle
import random
from functools import cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.course import exercises
from seqlab.course.answer import answers, calling, number, plan
from seqlab.course.checking import report_on
from seqlab.course.exercise_file import BEGIN, END, answer, parts, stub
from seqlab.course.grade import SEED
from seqlab.course.judge import Trusted, judge
from seqlab.course.report import Kind

ALL = [e for chapter in exercises.chapters() for e in exercises.of_chapter(chapter)]
PROJECTS = [e for e in ALL if e.requirements]
FUNCTIONS = [e for e in ALL if not e.numeric and not e.requirements]
NUMBERS = [e for e in ALL if e.numeric]
every = pytest.mark.parametrize("e", ALL, ids=lambda e: e.id)
every_but_projects = pytest.mark.parametrize(
    "e", [e for e in ALL if not e.requirements], ids=lambda e: e.id
)
every_function = pytest.mark.parametrize("e", FUNCTIONS, ids=lambda e: e.id)
seeds = pytest.mark.parametrize("seed", [0, SEED], ids=["check", "grade"])


class Work(TorchDispatchMode):
    """Counts the torch operations called inside it, and the numbers that they make."""

    calls = numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        for x in made if isinstance(made, tuple | list) else (made,):
            self.numbers += x.numel() if isinstance(x, torch.Tensor) else 0
        return made


class Proof:
    """One exercise with one seed: its inputs, drawn once, and what is judged on them."""

    def __init__(self, e, seed):
        self.e, self.trusted = e, Trusted(e)
        self.cases, self.inputs = plan(e, seed)

    def report(self, given):
        if self.e.numeric:
            return judge(self.e, self.cases, [number(given)], self.trusted)
        outcomes = answers(given, self.inputs, None, calling(self.e.kernel))
        return judge(self.e, self.cases, outcomes, self.trusted)

    def raises(self, given):
        """The exceptions of `given` over the cases."""
        if self.e.numeric:
            return set()
        return {self.trusted(given, case.inputs).type for case in self.cases} - {""}


@cache
def proof(id, seed):
    return Proof(exercises.find(id), seed)


@seeds
@every
def test_the_reference_and_every_alternative_pass(e, seed):
    for given in e.alternatives if e.requirements else (e.reference, *e.alternatives):
        report = proof(e.id, seed).report(given)
        # The reference may take a way that the learner may not: a loop over pairs, say.
        assert report.passed or (given is e.reference and report.kind == Kind.EFFORT), report
        assert not report.notes, report.notes  # and they change no input


@seeds
@every
def test_every_named_mistake_fails_with_its_own_sentence(e, seed):
    wrong = {}
    for sentence, given in e.mistakes.items():
        report = proof(e.id, seed).report(given)
        if (report.kind, report.message, report.earned) != (Kind.MISTAKE, sentence, 0):
            wrong[sentence] = report.message
        # A slip in an edit must not pass for the learner's mistake.
        slips = {"NameError", "UnboundLocalError", "SyntaxError", "AttributeError"}
        assert not slips & proof(e.id, seed).raises(given), sentence
    assert wrong == {}


@every
def test_a_check_costs_little_work(e):
    """A check should answer in a second or two. Counted, not timed, so that the processor does not
    matter: an operation of torch costs some 10 µs, a number that it makes some 5 ns.
    """
    with Work() as work:
        report_on(e, 0.5 if e.numeric else lambda **inputs: None)
    assert work.calls <= 150_000 and work.numbers <= 100_000_000


def first(e, change):
    """The right answer with its first output changed."""

    def changed(**inputs):
        right = e.reference(**inputs)
        return (change(right[0]), *right[1:]) if isinstance(right, tuple) else change(right)

    return changed


def on_all(e, change):
    def changed(**inputs):
        right = e.reference(**inputs)
        return tuple(change(x) for x in right) if isinstance(right, tuple) else change(right)

    return changed


def wrong_answers(e):
    """(what, the kinds that may be said, words in the sentence, the answer)."""

    def stubbed(**inputs):
        raise NotImplementedError(f"exercise {e.id}: your code here")

    def crash(**inputs):
        raise KeyError("no such thing")

    def renamed(nothing_like_it):
        return None

    name, kept = e.outputs[0], "keep the names of its parameters"
    yield "stub", {Kind.NOT_STARTED}, "Not started", stubbed
    yield "exception", {Kind.EXCEPTION}, "KeyError: 'no such thing'", crash
    yield "other parameters", {Kind.EXCEPTION}, kept, renamed
    yield "None", {Kind.NONE}, "returned None", lambda **inputs: None
    yield "nan", {Kind.NAN}, f"{name} holds NaN", first(e, lambda x: x * float("nan"))
    yield "shape", {Kind.SHAPE}, f"{name} has shape", first(e, lambda x: x[None])
    yield "dtype", {Kind.DTYPE}, "int64", first(e, lambda x: x.long())
    nothing = {Kind.CONSTANT, Kind.MISTAKE, Kind.HANDED_BACK}
    yield "zeros", nothing, "", on_all(e, torch.zeros_like)


@every_function
def test_every_misuse_gets_a_clear_sentence_of_its_own(e):
    sentences = []
    for what, kinds, words, given in wrong_answers(e):
        report = proof(e.id, 0).report(given)
        assert report.kind in kinds and report.earned == 0, f"{what}: {report}"
        assert words in report.message, f"{what}: {report}"
        sentences.append(report.message)
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("e", PROJECTS, ids=lambda e: e.id)
def test_a_project_not_begun_or_misused_says_so(e):
    def stubbed(**inputs):
        raise NotImplementedError(f"exercise {e.id}: your code here")

    def renamed(nothing_like_it):
        return None

    for given, kind, words in (
        (stubbed, Kind.NOT_STARTED, "Not started"),
        (renamed, Kind.EXCEPTION, "keep the names of its parameters"),
        (lambda **inputs: 1 / 0, Kind.EXCEPTION, "ZeroDivisionError"),
        (lambda **inputs: None, Kind.NONE, "is a return missing?"),
        (lambda **inputs: ((),) * 7, Kind.COUNT, "is needed"),
    ):
        report = proof(e.id, 0).report(given)
        assert report.kind == kind and words in report.message and not report.earned, report
    assert {r.says for r in e.requirements} >= set(e.mistakes)


@every_function
def test_an_input_handed_back_is_never_right(e):
    for name in (n for n, x in proof(e.id, 0).inputs[0].items() if isinstance(x, torch.Tensor)):
        report = proof(e.id, 0).report(lambda name=name, **inputs: inputs[name])
        kinds = {Kind.HANDED_BACK, Kind.COUNT, Kind.MISTAKE}
        kinds |= {Kind.EFFORT} if e.kernel else set()  # a copy's numbers, without a kernel
        assert report.kind in kinds and report.earned == 0, report


@pytest.mark.parametrize("e", NUMBERS, ids=lambda e: e.id)
def test_a_number_that_is_missing_or_wrong_is_told_so(e):
    assert report_on(e, ...).kind == Kind.NOT_STARTED
    for given, kind in (
        (float("nan"), Kind.NAN),
        (e.reference * 1.37 + 11, Kind.VALUE),
        ("many", Kind.TYPE),
        (None, Kind.TYPE),
    ):
        report = report_on(e, given)
        assert report.kind == kind and report.message and report.earned == 0, report


SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip


def one_node_changes(e):
    """The solution with one operator or one number changed: (what, the code of the cell)."""
    tree = ast.parse(e.cell)
    own = [range(begin + 1, end + 1) for begin, end in parts(e.cell)]
    for node in ast.walk(tree):
        if not any(getattr(node, "lineno", 0) in part for part in own):
            continue  # given, such as a default of the signature
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            old, node.op = node.op, SWAPS[type(node.op)]()
            yield f"{type(old).__name__} at line {node.lineno}", ast.unparse(tree)
            node.op = old
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            old, node.ops[0] = node.ops[0], SWAPS[type(node.ops[0])]()
            yield f"{type(old).__name__} at line {node.lineno}", ast.unparse(tree)
            node.ops[0] = old
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            old, node.value = node.value, node.value + 1
            yield f"{old} at line {node.lineno}", ast.unparse(tree)
            node.value = old


# One-node changes that give the right answer all the same, each with its reason.
EQUIVALENT = {
    ("04.8", "1 at line 13"): "one token more is sliced, and only the first is read",
    ("10.2", "1 at line 3"): "the sum is larger by 1 of 65,504",
    ("10.2", "Add at line 3"): "the sum is smaller by 2 of 65,504",
    ("10.2", "65504 at line 3"): "the last number of float16 is not met exactly",
    ("23.4", "0.0 at line 6"): "the first sum is multiplied by exp(-3.4e38)",
    ("23.4", "3.4e+38 at line 6"): "the interpreter keeps a number that float32 cannot hold",
    ("23.5", "0.0 at line 9"): "lanes beyond D meet a 0 of x",
    ("23.5", "0.0 at line 13"): "lanes beyond D meet a 0 of x",
    ("23.6", "0.0 at line 13"): "lanes beyond K meet a 0 of w",
    ("23.6", "0.0 at line 14"): "lanes beyond K meet a 0 of x",
    ("23.6", "0.0 at line 16"): "lanes beyond N are not stored",
    ("23.9", "0.0 at line 6"): "only the last block is ragged, and its sum is not used",
    ("23.9", "0.0 at line 16"): "lanes beyond n are not stored",
    ("24.1", "0.0 at line 10"): "lanes beyond S have a score of -inf",
    ("24.4", "0.0 at line 23"): "lanes beyond S have a weight of 0",
    ("24.4", "1e+30 at line 11"): "float32 does not know 1e30 + 1 from 1e30",
    ("24.5", "0.0 at line 10"): "lanes beyond V meet a 0 of y",
    ("24.5", "0.0 at line 11"): "rows beyond T are not stored",
    ("24.6", "0.0 at line 13"): "rows beyond T are not stored",
    ("24.6", "0.0 at line 21"): "keys beyond T are later than every query",
    ("24.7", "0.0 at line 9"): "the first sum is multiplied by exp(-1e30)",
    ("24.7", "1e+30 at line 9"): "float32 does not know 1e30 + 1 from 1e30",
    ("24.7", "0.0 at line 39"): "lanes beyond the parts have a weight of 0",
    ("24.9", "0.0 at line 8"): "rows beyond T are not stored",
    ("24.9", "0.0 at line 16"): "no query sees keys beyond S",
    ("25.3", "Gt at line 16"): "the diagonal is set to u afterwards",
    ("26.4", "0 at line 10"): "row 0 is known from the start",
    ("26.4", "15 at line 13"): "there is no row below the last",
    ("27.2", "Lt at line 8"): "rows beyond P and columns beyond D are not stored",
    ("27.6", "0.0 at line 12"): "rows beyond the group are not stored",
    ("27.8", "0.0 at line 13"): "rows beyond the group meet a 0 of dy",
    ("27.8", "0.0 at line 16"): "rows beyond the group meet a 0 of x",
    ("17.7", "1 at line 4"): "65 of 64 tokens have no chance to choose one expert",
    ("12.5", "2 at line 7"): "3T points leave room for the end, too",
}


@every_but_projects
def test_a_solution_with_one_node_changed_does_not_pass(e, record_property):
    """The check is strict: no operator and no number of the solution is without effect. What
    returns other numbers is named; what raises, or has another shape, is told that.
    """
    from importlib import import_module

    module = import_module(f"seqlab.course.exercises.ch{e.id[:2]}.{e.file}")
    passed, unnamed, named, tried = [], [], 0, 0
    changes = list(one_node_changes(e))
    random.Random(0).shuffle(changes)
    for what, code in changes[:16]:
        try:
            report = proof(e.id, 0).report(answer(code, e.name, module))
        except Exception:
            continue  # it does not even define the name
        tried += 1
        named += report.kind in (Kind.MISTAKE, Kind.SLIP)
        # An answer that is NaN everywhere shows no slip.
        blank = report.kind == Kind.NAN and report.rows[0].name.startswith("all ")
        if report.kind in (Kind.VALUE, Kind.NAN) and not blank:
            unnamed.append((what, report.message))
        if report.passed and (e.id, what) not in EQUIVALENT:
            passed.append(what)
    record_property("named", f"{named} of {tried}")
    assert passed == [] and unnamed == []


@every
def test_inputs_can_be_sent_to_the_graders_kernel(e):
    pickle.loads(pickle.dumps(plan(e, SEED)[1]))


@every
def test_a_stub_holds_nothing_of_the_solution(e):
    lines = e.cell.splitlines()
    body = [line.strip() for begin, end in parts(e.cell) for line in lines[begin + 1 : end]]
    hidden = {line for line in body if len(line) > 12}
    assert hidden and not hidden & {line.strip() for line in stub(e).splitlines()}
    assert BEGIN not in stub(e) and END not in stub(e)


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
