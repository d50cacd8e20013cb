"""Live figures for notebooks: ipywidgets controls around the pure functions of `seqlab.figures`."""

from seqlab.widgets.explore import explore
from seqlab.widgets.microscope import microscope

__all__ = ["explore", "microscope"]
