from functools import lru_cache
from typing import Any

import ipywidgets as w

from seqlab import figures
from seqlab.microscope import observe
from seqlab.widgets.explore import explore


def microscope(mixer, x, labels=None) -> w.VBox:
    """The state microscope, live: a slider and a play button over the tokens of x (B, T, D).

    If there are several, a head and a row of the batch can be chosen too. Opens on the last token.
    `labels` names the tokens. Any mixer will do: see `seqlab.microscope.observe`.
    """

    @lru_cache
    def trace(head, row):
        return observe(mixer, x, labels, head=head, row=row)

    first = trace(0, 0)
    T = len(first.labels)
    wide = w.Layout(width="min(440px, 95%)")
    t = w.IntSlider(T - 1, 0, T - 1, description="after token", layout=wide)
    play = w.Play(min=0, max=T - 1, value=T - 1, interval=600, description="play the tokens")
    w.jslink((play, "value"), (t, "value"))
    controls: dict[str, Any] = {"t": t}
    if first.n_heads > 1:
        controls["head"] = list(range(first.n_heads))
    if len(x) > 1:
        controls["row"] = list(range(len(x)))

    def draw(t, head=0, row=0):
        return figures.microscope(trace(head, row), t)

    panel = explore(draw, **controls)
    return w.VBox([play, panel])
