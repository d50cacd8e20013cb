"""Live figures for notebooks: ipywidgets controls around the pure functions of `seqlab.figures`."""

from seqlab.widgets.explore import explore

__all__ = ["explore"]
