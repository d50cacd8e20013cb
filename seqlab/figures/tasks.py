"""What a task looks like: an example of each, its tokens as words, its questions marked."""

from collections.abc import Mapping

import plotly.graph_objects as go
import torch

from seqlab.figures.theme import COLORS, EMPTY, MARKED, UNTOUCHED, figure
from seqlab.tasks import IGNORE, Task


def task_examples(
    tasks: Mapping[str, Task], *, seed: int = 0, longest: int = 24, title: str = ""
) -> go.Figure:
    """One example of each task, a row a task; a marked cell asks, and its answer is below it.

    tasks: name -> task. Of a long example the last `longest` tokens are shown, after "…".
    """
    rows = {name: _cells(task, seed, longest) for name, task in tasks.items()}
    width = max(len(row) for row in rows.values())
    asked = [[float(bool(answer)) for _, answer in row] for row in rows.values()]
    padded = [row + [float("nan")] * (width - len(row)) for row in asked]
    grid = go.Heatmap(
        z=padded,
        colorscale=[[0.0, UNTOUCHED], [1.0, MARKED]],
        zmin=0,
        zmax=1,
        showscale=False,
        hoverinfo="skip",
        xgap=1,
        ygap=6,
    )
    fig = figure(grid, title=title or "An example of each task", height=90 + 52 * len(rows))
    for y, row in enumerate(rows.values()):
        for x, (word, answer) in enumerate(row):
            said = f"<br><b>{answer}</b>" if answer else ""
            color = COLORS["write"] if answer else COLORS["softmax"]
            font = {"size": 9, "color": color}
            fig.add_annotation(x=x, y=y, text=word + said, showarrow=False, font=font)
    names = list(rows)
    fig.update_yaxes(autorange="reversed", tickvals=list(range(len(names))), ticktext=names)
    fig.update_yaxes(showgrid=False, zeroline=False, ticks="")
    fig.update_xaxes(visible=False, range=[-0.5, width - 0.5])
    return fig.update_layout(plot_bgcolor=EMPTY, showlegend=False)


def _cells(task: Task, seed: int, longest: int) -> list[tuple[str, str]]:
    """(word, answer) of each token of one example; the answer is "" where nothing is asked."""
    batch = task.batch(1, torch.Generator().manual_seed(seed))
    tokens, targets = batch.tokens[0], batch.targets[0]
    cells = [
        (_escaped(_word(task, token)), _answer(task, target))
        for token, target in zip(tokens, targets, strict=True)
    ]
    if len(cells) > longest:
        cells = [("…", ""), *cells[1 - longest :]]
    return cells


def _word(task: Task, token: torch.Tensor) -> str:
    say = getattr(task, "word", str)
    return say(token) if token.ndim else say(int(token))


def _answer(task: Task, target: torch.Tensor) -> str:
    if target.is_floating_point():
        return "" if target.isnan() else f"{target:.1f}"
    return "" if target == IGNORE else _escaped(_word(task, target))


def _escaped(text: str) -> str:
    """Plotly reads < and & as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
