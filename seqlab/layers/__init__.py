"""Modules that several architectures share: `base` (what every mixer inherits), norms, feature
maps, the short convolution, and the inner loop of test-time training.
"""
