"""What the learner calls in a notebook: it shows, it records, it never raises."""

import json

import pytest
import torch
from fake_course import SUM, WRITE, sum_per_chunk, write

from seqlab.course import check, hint, progress, records, show_solution
from seqlab.course.checking import CheckFailed, report_on
from seqlab.course.parting import figure


def test_a_check_prints_and_records(home, capsys):
    check("90.1", lambda S, k, v: S)
    assert "returns its input S" in capsys.readouterr().out
    check("90.1", write)
    assert "✓ passed  90.1  Write into the memory: 2 of 2 points" in capsys.readouterr().out
    record = json.loads((home / "work/progress.json").read_text())["exercises"]["90.1"]
    assert (record["attempts"], record["earned"]) == (2, 2) and record["solved"]


def test_what_was_earned_stays_earned(home, capsys):
    check("90.1", write)
    check("90.1", lambda S, k, v: S)
    assert records.of("90.1")["earned"] == 2


def test_an_untouched_stub_is_no_attempt(home, capsys):
    check("90.3", ...)
    assert "Not started" in capsys.readouterr().out and records.of("90.3")["attempts"] == 0


@pytest.mark.parametrize("call", [lambda id: check(id, write), hint, show_solution])
@pytest.mark.parametrize("id", ["90.9", "", None, 3, object()])
def test_an_unknown_id_is_one_sentence(home, capsys, call, id):
    call(id)
    said = capsys.readouterr().out.strip()
    assert (
        said.startswith("There is no exercise") and "did you mean 90." in said and "\n" not in said
    )


def test_strict_checks_raise_when_not_fully_right_and_record_nothing(home, monkeypatch, capsys):
    monkeypatch.setenv("SEQLAB_STRICT", "1")
    check("90.1", write)
    with pytest.raises(CheckFailed, match=r"90\.1: write returns its input S"):
        check("90.1", lambda S, k, v: S)
    with pytest.raises(CheckFailed):
        check("90.9", write)
    assert not (home / "work/progress.json").exists()


def test_a_check_is_a_no_op_while_grading(home, monkeypatch, capsys):
    monkeypatch.setenv("SEQLAB_GRADING", "1")
    check("90.1", lambda S, k, v: S)
    assert capsys.readouterr().out == "" and records.of("90.1")["attempts"] == 0


def test_hints_open_one_by_one(home, capsys):
    for n, text in enumerate(WRITE.hints, 1):
        hint("90.1")
        said = capsys.readouterr().out
        assert said.count("Hint") == n and text in said
        assert records.of("90.1")["hints"] == n
    hint("90.1")
    assert capsys.readouterr().out.count("Hint") == 3


def test_a_solution_is_shown_only_after_an_attempt(home, capsys):
    show_solution("90.1")
    said = capsys.readouterr().out
    assert "Try it first" in said and "S + vk" not in said
    check("90.1", lambda S, k, v: S)
    capsys.readouterr()
    show_solution("90.1")
    said = capsys.readouterr().out
    assert "return S + vk" in said and "Why 90.1 is so." in said and "SOLUTION" not in said


def test_progress_is_a_table_with_a_total(home, capsys):
    check("90.1", write)
    hint("90.2")
    capsys.readouterr()
    progress()
    said = capsys.readouterr().out
    assert "✓ done" in said and "not started" in said and "2 of 6 points" in said


def test_damaged_progress_is_set_aside_and_not_lost(home, capsys):
    (home / "work").mkdir()
    (home / "work/progress.json").write_text("{not json")
    check("90.1", write)
    assert records.of("90.1")["earned"] == 2
    (kept,) = (home / "work").glob("progress.damaged-*.json")
    assert kept.read_text() == "{not json"


def test_progress_is_written_whole_or_not_at_all(home, monkeypatch):
    records.attempt("90.1", 2)
    before = (home / "work/progress.json").read_text()

    def crash(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(records.os, "replace", crash)
    with pytest.raises(OSError):
        records.attempt("90.1", 0)
    assert (home / "work/progress.json").read_text() == before
    assert [p.name for p in (home / "work").iterdir()] == ["progress.json"]


def test_a_folder_that_cannot_be_written_costs_a_sentence_not_the_check(home, monkeypatch, capsys):
    def crash(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "write_whole", crash)
    check("90.1", write)
    said = capsys.readouterr().out
    assert "✓ passed" in said and "Progress could not be saved" in said


def test_the_report_says_everything_in_words_too():
    html = report_on(WRITE, lambda S, k, v: S)._repr_html_()
    assert "✗ failed" in html and "K ≠ V" in html and "0 of 2 points" in html
    assert "<script" not in report_on(WRITE, lambda S, k, v: "<script>")._repr_html_()


def test_a_report_escapes_what_the_learner_wrote():
    def answer(S, k, v):
        raise ValueError("<script>alert(1)</script>")

    html = report_on(WRITE, answer)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_the_figure_shows_yours_the_reference_and_the_difference_at_the_first_wrong_step():
    p = report_on(SUM, sum_per_chunk).parting
    assert (p.name, p.case, p.t) == ("y", "odd T", 4)
    fig = figure(p)
    yours, right, gap = (torch.tensor(trace.z) for trace in fig.data)
    assert yours.shape == right.shape == gap.shape == (11, 3)
    assert torch.allclose(yours - right, gap, atol=1e-6)
    assert (gap[:4] == 0).all() and (gap[4:] != 0).any()


def test_a_state_stands_beside_the_state():
    p = report_on(WRITE, lambda S, k, v: write(S, k, v).roll(1, -1)).parting
    assert p.t is None and p.case == "K ≠ V"  # the largest
    assert [len(trace.z) for trace in figure(p).data] == [5, 5, 5]  # its V


def test_nan_leaves_gaps_in_the_figure():
    p = report_on(WRITE, lambda S, k, v: write(S, k, v) * float("nan")).parting
    assert {value for row in figure(p).data[0].z for value in row} == {None}
