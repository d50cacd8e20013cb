"""Chapter 12: an exercise a file; notebook.py is what stands around them."""
