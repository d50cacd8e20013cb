"""Live figures for notebooks: ipywidgets controls around the pure functions of `seqlab.figures`."""

from seqlab.widgets.compiled import compiled
from seqlab.widgets.explore import explore
from seqlab.widgets.microscope import microscope

__all__ = ["compiled", "explore", "microscope"]
