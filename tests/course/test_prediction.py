import plotly.graph_objects as go
import pytest

from seqlab.course import holds, predict, records

FIGURE = go.Figure(go.Scatter(y=[1, 2]))


def parts(box):
    asked, row, out = box.children
    field, keep = row.children
    return asked, field, keep, out


def test_the_figure_appears_only_after_the_guess_which_is_kept(home):
    _, field, keep, out = parts(predict("90-a", "How many?", lambda: FIGURE))
    assert out.outputs == ()
    field.value = 7.5
    keep.click()
    said, figure = out.outputs
    assert "7.5" in said["data"]["text/plain"]
    assert "application/vnd.plotly.v1+json" in figure["data"]
    assert records.guess("90-a") == 7.5
    assert keep.disabled


def test_whoever_has_answered_sees_the_first_answer_at_once(home):
    records.keep_guess("90-a", "a few")
    assert records.keep_guess("90-a", "many") == "a few"
    _, field, keep, out = parts(predict("90-a", "How many?", lambda: FIGURE, ["a few", "many"]))
    assert field.value == "a few" and keep.disabled
    assert "a few" in out.outputs[0]["data"]["text/plain"]


def test_without_a_choice_it_asks_for_one(home):
    _, _, keep, out = parts(predict("90-a", "How many?", lambda: FIGURE, ["a few", "many"]))
    keep.click()
    assert "Choose one" in out.outputs[0]["data"]["text/plain"] and len(out.outputs) == 1
    assert records.guess("90-a") is None


def test_a_build_shows_the_figure_and_keeps_nothing(home, monkeypatch):
    monkeypatch.setenv("SEQLAB_STRICT", "1")
    *_, out = parts(predict("90-a", "How many?", lambda: [FIGURE, "Seven."]))
    assert len(out.outputs) == 2
    assert records.guess("90-a") is None


def test_a_figure_that_waits_for_the_learners_own_code_says_so(home):
    def show():
        raise NotImplementedError("exercise 90.1: your code here")

    _, _, keep, out = parts(predict("90-a", "How many?", show))
    keep.click()
    assert "waits for an answer of yours" in out.outputs[-1]["data"]["text/plain"]


def test_guesses_and_marks_do_not_touch_each_other(home):
    records.attempt("90.1", 2)
    records.keep_guess("90-a", 1.0)
    records.open_hint("90.1", 1)
    assert records.guess("90-a") == 1.0
    assert records.load()["90.1"]["earned"] == 2


def test_a_claim_that_holds_says_so_in_words(capsys):
    @holds
    def two_and_two_are_four():
        assert 2 + 2 == 4

    assert capsys.readouterr().out == "holds: two and two are four\n"


def test_a_claim_that_fails_is_raised():
    with pytest.raises(AssertionError):

        @holds
        def two_and_two_are_five():
            assert 2 + 2 == 5
