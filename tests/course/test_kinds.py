"""The kinds that are not a comparison with a reference: a project, and an open question; and what
`hint` shows after a named mistake.
"""

import json
import time

import fake_course
import pytest
import torch

from seqlab.course import check, exercises, hint, open_question, records
from seqlab.course.checking import mend_of, report_on
from seqlab.course.exercise import Case, Exercise, Requirement
from seqlab.course.masters import solved, unsolved
from seqlab.course.report import Kind


def accuracy(inputs, values):
    right = [(v[0] == x["x"] % 2).double().mean() for x, v in zip(inputs, values, strict=True)]
    share = torch.stack(right).mean().item()
    return share >= 0.9, f"{share:.0%}"


def size(inputs, values):
    n = max(v[1].numel() for v in values)
    return n <= 4, f"{n} numbers"


def made(**changes):
    return Exercise(
        **{
            "id": "90.4",
            "title": "Project: odd or even",
            "objective": "Sort.",
            "name": "parity",
            "points": 3,
            "minutes": 20,
            "difficulty": 3,
            "hints": ("a", "b", "c"),
            "cases": lambda rng: [Case("x", {"x": torch.arange(10)})],
            "outputs": ("answers", "state"),
            "requirements": (
                Requirement("answers right in 90 % of cases", accuracy, "Too many are wrong."),
                Requirement("a state of at most 4 numbers", size, "The state is too large."),
                Requirement("three", lambda i, v: (True, ""), "Three."),
                Requirement("four", lambda i, v: (True, ""), "Four."),
            ),
            "mistakes": {
                "Too many are wrong.": lambda x: (x * 0, x[:1]),
                "The state is too large.": lambda x: (x % 2, x),
                "Three.": 0,
                "Four.": 0,
            },
            "alternatives": (lambda x: (x % 2, x[:1]),),
        }
        | changes
    )


PARITY = made()


def test_a_project_says_what_was_measured_for_each_requirement():
    report = report_on(PARITY, lambda x: (x % 2, x[:1]))
    assert report.passed and report.earned == 3
    assert [(r.passed, r.detail) for r in report.rows[:2]] == [(True, "100%"), (True, "1 numbers")]


@pytest.mark.parametrize(
    "answer, kind, said",
    [
        (lambda x: (x * 0, x[:1]), Kind.MISTAKE, "Too many are wrong."),
        (lambda x: (x % 2, x), Kind.MISTAKE, "The state is too large."),
        (lambda x: (x * 0, x), Kind.MISTAKE, "Too many are wrong."),
        (lambda x: ("many", x), Kind.MISTAKE, "Too many are wrong."),
        (lambda x: x % 2, Kind.COUNT, "(answers, state) is needed"),
        (lambda x: None, Kind.NONE, "is a return missing?"),
        (lambda x: 1 / 0, Kind.EXCEPTION, "ZeroDivisionError"),
        (lambda y: y, Kind.EXCEPTION, "keep the names"),
    ],
)
def test_a_project_that_falls_short_says_where(answer, kind, said):
    report = report_on(PARITY, answer)
    assert report.kind == kind and said in report.message and report.earned == 0


def test_a_project_not_begun_or_out_of_time_says_so():
    def parity(x):
        raise NotImplementedError("your code here")

    def forever(x):
        while True:
            pass

    assert report_on(PARITY, parity).kind == Kind.NOT_STARTED
    assert report_on(PARITY, forever, seconds=0.2).kind == Kind.SLOW


def test_a_requirement_that_cannot_be_measured_is_not_met():
    report = report_on(PARITY, lambda x: (x[:3] % 2, x[:1]))
    assert "cannot be measured" in report.rows[0].detail and not report.rows[0].passed


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"mistakes": PARITY.mistakes | {"Nobody says this.": 0}}, "no requirement says"),
        ({"reference": lambda x: x}, "neither reference"),
    ],
)
def test_a_project_whose_file_is_wrong_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        made(**changes)


def test_the_second_hint_after_a_mistake_shows_its_mend(home, capsys):
    check("90.2", lambda x, state=None, chunk_size=4: (x.cumsum(1), x.cumsum(1)[:, -1]))
    assert "The state is ignored." in capsys.readouterr().out
    hint("90.2")
    assert "You probably wrote" not in capsys.readouterr().out
    hint("90.2")
    said = capsys.readouterr().out
    wanted = "`0` where `0 if state is None else state[:, None]` is needed."
    assert f"You probably wrote {wanted}" in said
    check("90.2", fake_course.running_sum)
    capsys.readouterr()
    for _ in range(3):
        hint("90.2")
    assert "You probably wrote" not in capsys.readouterr().out


def test_a_mend_is_said_in_words():
    assert mend_of("* → return 0") == mend_of(None) == ""
    assert mend_of("a + b → a - b ; [c] → ") == (
        "You probably wrote `a - b` where `a + b` is needed, and nothing for `[c]`."
    )
    assert "`x = 1 y = 2`" in mend_of("x → x = 1 ⏎ y = 2")


def test_a_check_that_takes_over_a_second_says_so(home, capsys):
    def slow(S, k, v):
        time.sleep(0.8)
        return fake_course.write(S, k, v)

    check("90.1", slow)
    assert "\rChecking write … 1 s" in capsys.readouterr().out
    check("90.1", fake_course.write)
    assert "Checking" not in capsys.readouterr().out


QUESTION = '''"""Why a sum?

*Open question · 3 minutes*

Say why.
"""

POINTS = ("A sum has no order.", "It has one size.", "It never forgets.")
'''


@pytest.fixture
def asked(home, tmp_path, monkeypatch):
    """Chapter 90 with an open question behind its exercises."""
    page = fake_course.copied(tmp_path / "questioned")
    page.write_text(page.read_text() + '\n# %% [markdown] tags=["question"]\n# why\n')
    (page.parent / "why.py").write_text(QUESTION)
    fake_course.install(monkeypatch, page.parent.parent)
    return page.parent / "why.py"


def texts(box):
    return [child.children[1].value for child in box.children[2].children[1:]]


def test_the_points_of_an_open_question_appear_after_an_answer(asked):
    box = open_question("90.A")
    field, button, below = box.children
    button.click()
    assert "Write a sentence" in below.children[0].value
    field.value = "Because a sum does not care for order."
    button.click()
    assert "A sum has no order." in texts(box)[0] and len(texts(box)) == 3
    below.children[2].children[0].value = True
    assert records.words("90.A") == {"text": field.value, "ticked": [1]}

    again = open_question("90.A")
    assert again.children[0].value == field.value
    assert [row.children[0].value for row in again.children[2].children[1:]] == [False, True, False]


def test_an_open_question_stands_in_both_notebooks_its_points_in_one(asked):
    for notebook, there in ((solved("90"), True), (unsolved("90"), False)):
        sources = [cell.source for cell in notebook.cells]
        assert 'open_question("90.A")' in sources
        assert any("earns no points" in s for s in sources)
        assert any("A sum has no order." in s for s in sources) == there
    assert [e.id for e in exercises.of_chapter("90")] == ["90.1", "90.2", "90.3"]


def test_an_open_question_with_too_few_points_is_refused(asked):
    asked.write_text(QUESTION.replace('"It has one size.", "It never forgets."', ""))
    with pytest.raises(ValueError, match="1 POINTS: three to five are needed"):
        exercises.questions("90")


def test_words_survive_marks_and_a_full_disk_is_said(asked, monkeypatch):
    records.keep_words("90.A", text="Because it is so.")
    records.attempt("90.1", 1)
    kept = json.loads((records.paths.work() / "progress.json").read_text())
    assert kept["questions"]["90.A"]["text"] == "Because it is so."

    def full(*args, **changes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "keep_words", full)
    box = open_question("90.A")
    box.children[0].value = "An answer that is long enough."
    box.children[1].click()
    assert "No space left" in box.children[2].children[0].value
