"""Chapter 04: an exercise a file; notebook.py is what stands around them."""
