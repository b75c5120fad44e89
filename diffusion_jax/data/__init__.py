"""Data: sources of images, transforms, and the loader; NumPy out."""
