"""The judge names what is wrong: one test for each kind of wrong answer."""

import dataclasses
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from fake_course import NUMBER, SUM, WRITE, running_sum, sum_per_chunk, write

from seqlab.course.answer import Outcome, answers, number, plan
from seqlab.course.checking import report_on
from seqlab.course.exercise import Case, Exercise
from seqlab.course.exercises import find
from seqlab.course.judge import judge
from seqlab.course.report import Kind


def said(exercise, answer, **kwargs):
    report = report_on(exercise, answer, **kwargs)
    assert not report.passed and report.earned == 0
    return report.kind, report.message


@pytest.mark.parametrize("exercise", [WRITE, SUM, NUMBER], ids=lambda e: e.id)
def test_the_reference_and_the_alternatives_pass(exercise):
    for answer in (exercise.reference, *exercise.alternatives):
        report = report_on(exercise, answer)
        assert report.passed and report.earned == exercise.points, report


@pytest.mark.parametrize(
    "exercise, sentence",
    [(e, s) for e in (WRITE, SUM, NUMBER) for s in e.mistakes],
    ids=lambda x: getattr(x, "id", x),
)
def test_a_named_mistake_is_named(exercise, sentence):
    assert said(exercise, exercise.mistakes[sentence]) == ("mistake", sentence)


def test_a_mistake_written_another_way_is_named_too():
    def einsum(S, k, v):
        return S + torch.einsum(
            "bhk,bhv->bhkv", k, v
        )  # raises another error than the named one where K ≠ V

    assert said(WRITE, einsum)[1] == "The state is transposed: k vᵀ instead of v kᵀ."


def test_the_mistake_that_matches_every_case_comes_before_one_that_matches_where_it_differs():
    half = {
        "first only where K = V": lambda S, k, v: (
            write(S, k, 3 * v) if v.shape == k.shape else write(S, k, v)
        )
    }
    both = {"thrice": lambda S, k, v: write(S, k, 3 * v)}
    exercise = dataclasses.replace(WRITE, mistakes=half | both | WRITE.mistakes)
    assert said(exercise, both["thrice"])[1] == "thrice"
    assert said(exercise, half["first only where K = V"])[1] == "first only where K = V"


def test_a_stub_is_not_started():
    def stub(S, k, v):
        raise NotImplementedError("exercise 90.1: your code here")

    assert said(WRITE, stub) == (
        "not started",
        "Not started: write still raises NotImplementedError.",
    )
    assert said(NUMBER, ...)[0] == said(WRITE, ...)[0] == "not started"


def test_an_exception_comes_with_its_type_message_and_line():
    def answer(S, k, v):
        return S @ missing

    kind, sentence = said(WRITE, answer)
    assert kind == "exception"
    assert (
        "NameError: name 'missing' is not defined" in sentence and "return S @ missing" in sentence
    )


def test_renamed_parameters_are_told_the_right_names():
    kind, sentence = said(WRITE, lambda state, key, value: state)
    assert (
        kind == "exception"
        and "write(S=…, k=…, v=…)" in sentence
        and "keep the names of its parameters" in sentence
    )


def test_a_type_error_inside_the_function_is_not_blamed_on_the_parameters():
    def answer(S, k, v):
        return S @ None

    kind, sentence = said(WRITE, answer)
    assert kind == "exception" and "keep the names of" not in sentence


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        (lambda S, k, v: None, "none", "returned None"),
        (lambda S, k, v: "hello", "type", "S is a str: a torch tensor is needed"),
        (lambda S, k, v: write(S, k, v).numpy(), "type", "S is a numpy array"),
        (lambda S, k, v: 1.5, "type", "a number (float)"),
        (
            lambda S, k, v: (write(S, k, v), k),
            "count",
            "returned a tuple or list of 2: S alone is needed",
        ),
        (
            lambda S, k, v: write(S, k, v).mT,
            "shape",
            "(2, 3, 4, 5): (2, 3, 5, 4) is needed; axes 2 and 3 (the last two)",
        ),
        (lambda S, k, v: write(S, k, v)[:1, :1], "shape", "(1, 1, 5, 4): (2, 3, 5, 4) is needed"),
        (lambda S, k, v: write(S, k, v).long(), "dtype", "int64: float32 is needed"),
        (lambda S, k, v: write(S, k, v) * float("nan"), "nan", "S holds NaN"),
        (lambda S, k, v: write(S, k, v) / 0, "nan", "S holds inf"),
        (lambda S, k, v: S, "handed back", "write returns its input S unchanged"),
        (lambda S, k, v: v, "handed back", "write returns its input v unchanged"),
        (lambda S, k, v: torch.zeros_like(S), "constant", "S is 0.0 everywhere"),
        (lambda S, k, v: torch.ones_like(S), "constant", "S is 1.0 everywhere"),
        (
            lambda S, k, v: write(S, k, v) / 2,
            "factor",
            "0.5 times what it should be: is a scale off?",
        ),
        (lambda S, k, v: -write(S, k, v), "factor", "-1 times what it should be: is a sign off?"),
        (lambda S, k, v: write(S, k, v).half(), "value", "is off by up to"),
        (lambda S, k, v: write(S, k, v).roll(1, -1), "value", "is off by up to"),
        (lambda S, k, v: torch.empty(2**30, device="meta"), "type", "tensor on meta"),
        (lambda S, k, v: write(S, k, v).to_sparse(), "type", "sparse"),
    ],
)
def test_a_wrong_answer_gets_its_own_sentence(answer, kind, words):
    got, sentence = said(WRITE, answer)
    assert got == kind and words in sentence, sentence


def test_several_outputs_must_all_be_there():
    assert (
        "returned a tensor: a tuple (y, S) is needed"
        in said(SUM, lambda x, state, chunk_size: x)[1]
    )
    assert (
        "a tuple or list of 3: 2 outputs are needed"
        in said(SUM, lambda x, state, chunk_size: (x, x, x))[1]
    )
    assert report_on(
        SUM, lambda **inputs: list(running_sum(**inputs))
    ).passed  # a list does as well as a tuple


def test_it_says_where_the_answer_parts():
    kind, sentence = said(SUM, sum_per_chunk)
    assert kind == "value"
    assert (
        "y is equal up to t = 3, wrong from t = 4" in sentence
        and "is the state carried across chunks?" in sentence
    )
    assert "Another chunk size gives another answer." in sentence


def test_a_broken_property_alone_is_enough_to_fail():
    def answer(x, state, chunk_size):
        return running_sum(x if chunk_size == 4 else 2 * x, state)

    assert said(SUM, answer) == ("property", "Another chunk size gives another answer.")


def test_where_nan_begins_is_told():
    def answer(x, state, chunk_size):
        y, S = running_sum(x, state)
        y[:, 5:] = float("nan")
        return y, S

    assert "y holds NaN, first at t = 5, in the case 'odd T'" in said(SUM, answer)[1]


def test_an_endless_loop_ends():
    def answer(S, k, v):
        while True:
            pass

    kind, sentence = said(WRITE, answer, seconds=0.3)
    assert kind == "slow" and "does a loop never end?" in sentence


def test_an_endless_loop_that_swallows_the_alarm_once_ends_too():
    def answer(S, k, v):
        try:
            while True:
                pass
        except BaseException:
            while True:
                pass

    assert said(WRITE, answer, seconds=0.3)[0] == "slow"


def test_the_notebooks_default_dtype_does_not_reach_the_reference():
    torch.set_default_dtype(torch.float64)
    try:
        assert report_on(WRITE, write).passed
    finally:
        torch.set_default_dtype(torch.float32)


class AlwaysEqual:
    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return self

    @property
    def __class__(self):
        return torch.Tensor


class Lying(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True


def test_an_object_that_equals_everything_gains_nothing():
    assert said(WRITE, lambda S, k, v: AlwaysEqual())[0] == "type"
    assert said(WRITE, lambda S, k, v: S.as_subclass(Lying))[0] in ("handed back", "type", "value")
    assert said(NUMBER, AlwaysEqual())[0] == "type"


def test_patched_comparisons_gain_nothing(monkeypatch):
    monkeypatch.setattr(torch, "allclose", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch, "equal", lambda *args, **kwargs: True)
    assert said(WRITE, lambda S, k, v: S)[0] == "handed back"


class Nasty:
    def __call__(self, **inputs):
        class Error(Exception):
            def __str__(self):
                raise RuntimeError("no")

        raise Error

    def __getattr__(self, name):
        raise RuntimeError(name)


WEIRD = [5, "x", None, object(), [], torch.zeros(3), type, Nasty(), print, AlwaysEqual()]


@pytest.mark.parametrize("answer", WEIRD, ids=range(len(WEIRD)))
def test_whatever_is_passed_the_report_is_a_sentence(answer):
    for exercise in (WRITE, SUM, NUMBER):
        report = report_on(exercise, answer)
        assert not report.passed and report.message.endswith((".", "?")), report
        assert str(report) and report._repr_html_()


@pytest.mark.parametrize(
    "value", [2**14, 16384.0, torch.tensor(16384), torch.tensor([16384.0]), 16384.5]
)
def test_a_number_may_come_in_any_form(value):
    assert report_on(NUMBER, value).passed


@pytest.mark.parametrize(
    "value",
    [16000, float("nan"), float("inf"), 10**400, True, "16384", (16384,), lambda: 16384],
    ids=range(8),
)
def test_a_wrong_number_fails(value):
    assert not report_on(NUMBER, value).passed


@pytest.mark.parametrize(
    "change, words",
    [
        ({"title": ""}, "title is missing"),
        ({"objective": " "}, "objective is missing"),
        ({"points": 0}, "points is 0"),
        ({"minutes": None}, "minutes is None"),
        ({"difficulty": 4}, "difficulty is 4"),
        ({"hints": ("a", "b")}, "2 hints: exactly three"),
        ({"mistakes": {}}, "0 named mistakes: at least four"),
        ({"alternatives": ()}, "no alternative"),
        ({"id": "3.1"}, "the id must look like 03.2"),
        ({"name": "a b"}, "it must name the function"),
        ({"reference": None}, "reference is missing"),
        ({"cases": None}, "cases are missing"),
    ],
)
def test_incomplete_data_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(WRITE, **change)


def test_the_defaults_of_an_exercise_are_not_enough():
    with pytest.raises(ValueError, match="title is missing"):
        Exercise("90.9")


def _fold(x):
    total, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        total = total + x[:, t]
        ys.append(total)
    return torch.stack(ys, 1)


def test_right_values_by_a_way_that_is_ruled_out_do_not_pass():
    """The effort of a call is counted, here and in the grader's kernel, and an exercise may judge
    it.
    """

    def no_loop(inputs, effort):
        T = inputs["x"].shape[1]
        return (
            f"{effort.calls} calls for {T} tokens: do not loop."
            if T > 4 and effort.calls >= T
            else None
        )

    e = replace(
        WRITE,
        id="03.9",
        name="total",
        reference=_fold,
        alternatives=(lambda x: x.cumsum(1),),
        cases=lambda rng: [
            Case("T = 1", {"x": torch.ones(1, 1)}),
            Case("long", {"x": torch.rand(2, 64, generator=rng)}),
        ],
        mistakes={f"m{i}": (lambda x, i=i: x + i) for i in range(1, 5)},
        properties=(),
        outputs=("y",),
        effort=no_loop,
    )
    cases, inputs = plan(e, 0)
    report = judge(e, cases, answers(lambda x: x.cumsum(1), inputs))
    assert report.passed
    report = judge(e, cases, answers(_fold, inputs))
    assert not report.passed and report.kind == "effort"
    assert report.message.endswith("calls for 64 tokens: do not loop.")
    sent = [Outcome.from_dict(o.as_dict()) for o in answers(_fold, inputs)]
    assert judge(e, cases, sent).message == report.message


def test_a_mistake_that_always_raises_is_named_by_the_same_exception_only():
    e = replace(
        WRITE,
        name="product",
        reference=lambda x: x @ x.mT,
        alternatives=(lambda x: torch.einsum("ij,kj->ik", x, x),),
        cases=lambda rng: [
            Case("a", {"x": torch.rand(2, 3, generator=rng)}),
            Case("b", {"x": torch.rand(4, 5)}),
        ],
        mistakes={"One factor must be transposed.": lambda x: x @ x}
        | {f"m{i}": (lambda x, i=i: x @ x.mT + i) for i in range(1, 5)},
        properties=(),
        outputs=("y",),
        time_axis=None,
    )
    cases, inputs = plan(e, 0)

    def said(f):
        return judge(e, cases, answers(f, inputs)).message

    assert said(lambda x: x @ x) == "One factor must be transposed."
    assert "IndexError" in said(lambda x: [][0])


@pytest.mark.parametrize(
    "value,message",
    [
        (None, "answer is None: a number is needed."),
        (True, "answer is True or False: a number is needed."),
        ([17], "answer is a tuple or list: a number is needed."),
        (21.8, "answer = 21.8 is nearly right: give more digits."),
        (22, "answer = 22 is nearly right: give more digits."),
        # Near, but 21.834 does not round to it: another formula's number.
        (
            21.7,
            'answer = 21.7 is not right. Write the formula down first; hint("90.1") opens a hint.',
        ),
    ],
)
def test_a_number_that_is_none_or_nearly_right(value, message):
    e = replace(
        WRITE,
        name="answer",
        reference=21.834,
        alternatives=(21.834,),
        cases=None,
        mistakes={f"m{i}": float(i) for i in range(4)},
        properties=(),
        outputs=("answer",),
        time_axis=None,
    )
    assert judge(e, plan(e, 0)[0], [number(value)]).message == message
    assert judge(e, plan(e, 0)[0], [number(Fraction(21834, 1000))]).passed


def test_an_answer_that_calls_an_unwritten_one_says_which():
    def decayed(S):
        raise NotImplementedError("exercise 90.9: your code here")

    kind, message = said(WRITE, lambda S, k, v: decayed(S))
    assert kind == "exception" and "it calls decayed, which is not written yet" in message


def test_an_answer_that_changes_its_inputs_fails():
    def in_place(S, k, v):
        return S.add_(v[..., :, None] * k[..., None, :])

    kind, message = said(WRITE, in_place)
    assert kind == "in place" and "changes its input S in place" in message


def test_the_same_fault_in_all_cases_is_said_once():
    def raises(S, k, v):
        raise KeyError("k")

    report = report_on(WRITE, raises)
    assert len(report.rows) == 1 and report.rows[0].name.startswith("all ")


def test_an_id_may_leave_out_its_zero():
    from seqlab.course import exercises

    assert exercises.find("3.2") is exercises.find("03.2")


@pytest.mark.parametrize(
    "id, answer, said",
    [
        ("03.4", 31, None),
        ("03.4", 10 + 0.6 * 6 + 4, "one 5 has become 6"),
        ("03.5", 67.913 / 16_384, "one multiplication has become a division"),
        # Two slips give 18: both are said, and no place is shown.
        ("03.4", 18, "one 4 has become 5, or one 10 has become 11"),
    ],
)
def test_a_number_with_one_slip_is_told_what_it_shows(id, answer, said):
    report = report_on(find(id), answer)
    if said is None:
        assert report.kind == Kind.VALUE and not report.edit
        return
    assert report.kind == Kind.SLIP and said in report.message
    assert bool(report.edit) == ("shows where" in report.message) == (", or " not in said)


def test_a_slip_is_recognised_by_its_numbers_however_it_is_written():
    def stream(q, k, v, S, z):
        writes = v[..., :, None] * k[..., None, :]
        S, z = S[:, None] - writes.cumsum(1), z[:, None] + k.cumsum(1)
        y = (S @ q[..., None])[..., 0] / (z * q).sum(-1, keepdim=True)
        return y, S[:, -1], z[:, -1]

    report = report_on(find("03.9"), stream)
    assert report.kind == Kind.SLIP and report.edit.startswith("S + ")
    assert "of a right answer in which one + has become a -." in report.message


def test_a_number_is_known_for_a_mistake_as_its_tensor_is():
    def work(T, D, H, h, F):
        each = 4 * D**2 + 3 * D * F  # k and v with all heads
        return T * each, 2 * T**2 * D, each / (2 * D)

    report = report_on(find("01.7"), work)
    assert report.kind == Kind.MISTAKE and "counted with all H heads" in report.message


def test_nan_everywhere_is_no_mistake_that_gives_nan_somewhere():
    def content(memory, k, beta, gamma):
        return torch.full((*k.shape[:2], memory.shape[1]), torch.nan)

    assert report_on(find("02.7"), content).kind == Kind.NAN


def test_a_slip_that_never_ends_is_left(monkeypatch):
    """`x / 2` in place of `x * 2` loops for ever."""
    monkeypatch.setattr("seqlab.course.judge.SLIP_SECONDS", 0.1)
    cell = """def up(x):
    ### BEGIN SOLUTION
    while (x < 8).all():
        x = x * 2
    return x
    ### END SOLUTION"""

    def defined_by(code):
        names = {}
        exec(code, names)
        return names["up"]

    e = replace(
        WRITE,
        name="up",
        cell=cell,
        defined_by=defined_by,
        reference=defined_by(cell),
        alternatives=(defined_by(cell),),
        cases=lambda rng: [
            Case("small", {"x": torch.ones(2)}),
            Case("8", {"x": torch.ones(2) * 8}),
        ],
        mistakes={f"m{i}": (lambda x, i=i: x + 100 + i) for i in range(4)},
        properties=(),
    )
    assert said(e, lambda x: x * 3 + torch.arange(2))[0] == "value"


def test_right_outputs_in_another_order_are_told_so():
    def swapped(q, k, v, S, z):
        y, S, z = find("03.9").reference(q, k, v, S, z)
        return y, z, S

    kind, message = said(find("03.9"), swapped)
    assert kind == "mistake" and "return (y, S, z), not (y, z, S)" in message


@pytest.mark.parametrize("outputs", [lambda y: y, lambda y: (y.detach(), y), lambda y: [y, 3]])
def test_the_gradient_is_looked_at_whatever_the_outputs_stand_in(outputs):
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    (bad,) = answers(lambda x: outputs(x.sqrt()), [{"x": x}], 5.0)
    (good,) = answers(lambda x: outputs(x * x), [{"x": x}], 5.0)
    assert not bad.effort.gradient_finite and good.effort.gradient_finite


def by_pytorchs_gru(x, W, R, b, b_R, h):
    gru = torch.nn.GRU(x.shape[-1], h.shape[-1], batch_first=True)
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    weights = dict(zip(names, (W, R, b, b_R), strict=True))
    y, h = torch.func.functional_call(gru, weights, (x, h[None]))
    return y, h[0]


def by_complex_numbers(re, im, q, k, v, log_a, theta):
    S = torch.complex(re, im) * torch.polar(log_a.exp(), theta)[..., None, :]
    S = S + v[..., None] * k[..., None, :]
    return (S.real @ q[..., None])[..., 0], S.real, S.imag


def by_inverting(A, B, dt):
    half = dt[:, None, None] / 2 * A
    one = torch.eye(A.shape[-1], dtype=A.dtype)
    inverse = torch.linalg.inv(one - half)
    return inverse @ (one + half), (inverse @ (dt[:, None] * B)[..., None])[..., 0]


def wants_gradient(reference, x, **how):
    case = lambda rng: [Case("one", {"x": x.clone().requires_grad_()})]  # noqa: E731
    no = {"mistakes": {f"{n} is added": lambda x, n=n: x + n for n in range(1, 5)}, "effort": None}
    return dataclasses.replace(
        SUM, cases=case, reference=reference, outputs=("y",), properties=(), **no, **how
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: (2 * x).detach(),
        lambda x: torch.tensor([2 * n.item() for n in x]),
        lambda x: torch.where(x == 0, 0.0, 2 * x),
        lambda x: x + x.detach(),
        torch.no_grad()(lambda x: 2 * x),
    ],
)
def test_right_values_without_their_gradient_are_refused(answer):
    exercise = wants_gradient(lambda x: x + x, torch.tensor([0.0, 1, 2]))
    kind, message = said(exercise, answer)
    assert kind == "effort" and "the gradient with respect to x is not" in message
    assert report_on(exercise, lambda x: 2 * x).passed


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.square().sqrt(),  # 0 / 0 at 0
        lambda x: torch.where(x > 0, x * x.log().exp() / x, 0 * x),  # the branch not taken
    ],
)
def test_a_gradient_that_is_nan_is_told_so_with_its_case(answer):
    exercise = wants_gradient(lambda x: x.relu(), torch.tensor([0.0, 1, 2]))
    kind, message = said(exercise, answer)
    assert kind == "effort"
    assert "with respect to x is NaN or infinite in case 'one'" in message
    assert "detach" not in message


def test_a_gradient_that_the_reference_has_not_is_not_asked_for():
    x = torch.tensor([0.0, 1, 2])
    assert report_on(wants_gradient(lambda x: x.detach(), x), lambda x: x * 1).passed
    assert report_on(wants_gradient(lambda x: x.sqrt(), x), lambda x: x.detach().sqrt()).passed


def test_a_softmax_has_a_gradient_although_its_sum_has_none():
    exercise = wants_gradient(lambda x: x.softmax(0), torch.tensor([0.0, 1, 2]))
    assert said(exercise, lambda x: x.detach().softmax(0))[0] == "effort"
    masked = wants_gradient(lambda x: x.masked_fill(x < 1, -torch.inf), torch.tensor([0.0, 1, 2]))
    assert report_on(masked, lambda x: torch.where(x < 1, x - torch.inf, x)).passed
    complex_one = wants_gradient(lambda x: torch.complex(x, x), torch.tensor([0.0, 1, 2]))
    assert report_on(complex_one, lambda x: x * (1 + 1j)).passed


def test_a_gradient_that_autograd_cannot_find_is_laid_on_a_change_in_place():
    def in_place(x):
        y = x.exp()
        y[0] = y[0] * 1
        return y

    kind, message = said(wants_gradient(lambda x: x.exp(), torch.ones(3)), in_place)
    assert kind == "effort" and "changed in place" in message


@pytest.mark.parametrize(
    "id, by_library",
    [
        ("02.5", by_pytorchs_gru),
        ("05.6", by_complex_numbers),
        ("06.2", by_inverting),
    ],
)
def test_what_a_text_rules_out_is_seen(id, by_library):
    exercise = find(id)
    kind, message = said(exercise, by_library)
    assert kind == "effort" and message in exercise.ruled_out.values()


def test_a_mistake_that_gives_only_zeros_is_not_any_small_answer():
    """1e-10 where 2e-10 is right is wrong, but not the mistake that returns 0."""
    small = Case("small", {"x": torch.full((3,), 2e-10)})
    exercise = dataclasses.replace(
        SUM,
        cases=lambda rng: [small],
        reference=lambda x: x,
        mistakes={"nothing is written": lambda x: 0 * x}
        | {f"{n} is added": lambda x, n=n: x + n for n in (1, 2, 3)},
        outputs=("y",),
        effort=None,
        properties=(),
    )
    assert said(exercise, lambda x: 0 * x)[1] == "nothing is written"
    assert said(exercise, lambda x: x / 2 + x.sum())[0] != "mistake"
