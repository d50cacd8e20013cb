"""Plotly figures: pure functions from tensors to one go.Figure; nothing here displays anything."""

from seqlab.figures.kernel_trace import kernel_trace
from seqlab.figures.microscope import microscope, microscope_frames, state_surface
from seqlab.figures.roofline import roofline
from seqlab.figures.state import attention_matrix, state_pair, state_table
from seqlab.figures.theme import COLORS, figure
from seqlab.figures.training import bars, learning_curves, loss_curves, timing_lines

__all__ = [
    "COLORS",
    "attention_matrix",
    "bars",
    "figure",
    "kernel_trace",
    "learning_curves",
    "loss_curves",
    "microscope",
    "microscope_frames",
    "roofline",
    "state_pair",
    "state_surface",
    "state_table",
    "timing_lines",
]
