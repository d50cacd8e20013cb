"""A question that is answered before its figure appears."""

import os
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from seqlab.course import records


def predict(
    id: str, question: str, show: Callable[[], Any], choices: Sequence[str] | None = None
) -> Any:
    """Ask `question`, keep the first answer in `work/progress.json`, then show what `show()` makes.

    `id` names the question ("03-smear"). The answer is one of `choices`, or a number without them.
    `show()` returns a figure, a sentence or a list of both; if it raises, one sentence says why.
    Whoever has answered before sees the answer and the figure at once. In a build, where nobody
    can answer, the figure is drawn below the question.
    """
    if os.environ.get("SEQLAB_GRADING"):
        return None
    import ipywidgets as w

    field = _field(choices)
    keep = w.Button(description="Keep my guess", button_style="primary")
    out = w.Output()

    def reveal(guess: str | float | None) -> None:
        keep.disabled = field.disabled = True
        said = [] if guess is None else [f"Your guess, kept before you saw this: {_said(guess)}."]
        out.outputs = tuple(_display(thing) for thing in [*said, *_shown(show)])

    def answered(_) -> None:
        if field.value is None:
            out.outputs = (_display("Choose one of the answers first."),)
            return
        reveal(_kept(id, field.value))

    keep.on_click(answered)
    before = records.guess(id)
    if before is not None:
        if choices is None or before in choices:
            field.value = before
        reveal(before)
    elif os.environ.get("SEQLAB_STRICT") == "1":
        reveal(None)
    asked = w.HTML(f"<b>{escape(question)}</b>")
    box: Any = w.VBox([asked, w.HBox([field, keep], layout=w.Layout(flex_flow="row wrap")), out])
    box.shown_again = lambda: [_display(thing) for thing in _shown(show)]
    return box


def _field(choices: Sequence[str] | None) -> Any:
    import ipywidgets as w

    if choices is None:
        return w.FloatText(value=0.0, layout=w.Layout(width="120px"))
    return w.RadioButtons(options=list(choices), value=None, layout=w.Layout(width="max-content"))


def _kept(id: str, guess: str | float) -> str | float:
    """The first guess there was; with a full disk, this one."""
    try:
        return records.keep_guess(id, guess)
    except OSError:
        return guess


def _said(guess: str | float) -> str:
    return guess if isinstance(guess, str) else f"{guess:g}"


def _shown(show: Callable[[], Any]) -> list[Any]:
    try:
        made = show()
    except Exception as error:
        return [f"This waits for an answer of yours that runs. ({error})"]
    things = made if isinstance(made, list | tuple) else [made]
    return [thing for thing in things if thing is not None]


def _display(thing: Any) -> dict[str, Any]:
    """What a figure or a sentence looks like in an Output."""
    if isinstance(thing, str):
        data: dict[str, Any] = {"text/plain": thing, "text/html": f"<p>{escape(thing)}</p>"}
    else:
        from seqlab.widgets.explore import shown_figure

        data = shown_figure(thing)
    return {"output_type": "display_data", "data": data, "metadata": {}}
