"""Plotly figures: pure functions from tensors to one go.Figure. Nothing here displays anything or needs a notebook."""

from seqlab.figures.microscope import microscope, microscope_frames, state_surface
from seqlab.figures.state import attention_matrix, state_pair, state_table
from seqlab.figures.theme import COLORS, figure
from seqlab.figures.training import bars, loss_curves, timing_lines

__all__ = [
    "COLORS",
    "attention_matrix",
    "bars",
    "figure",
    "loss_curves",
    "microscope",
    "microscope_frames",
    "state_pair",
    "state_surface",
    "state_table",
    "timing_lines",
]
