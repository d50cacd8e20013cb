"""seqlab: modern sequence models, one equation at a time. See README.md; start with
chapters/00_start_here.ipynb.
"""

__version__ = "0.1.0"
