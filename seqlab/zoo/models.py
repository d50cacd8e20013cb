"""Whole models: which mixers in which order, their published sizes, and a tiny one that trains."""

from seqlab.zoo.row import Recipe

RECIPES: list[Recipe] = []
