"""Plotly figures: pure functions from tensors to one go.Figure."""
