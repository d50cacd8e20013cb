"""Modules that several architectures share.

`base` is what every mixer inherits; `norm`, `feature_maps`, `low_rank` and `short_conv` are parts
of many; `inner_loop` is the loop of test-time training. They import the core and nothing else of
the course.
"""
