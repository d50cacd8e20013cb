"""Chapter 27: an exercise a file; notebook.py is what stands around them."""
