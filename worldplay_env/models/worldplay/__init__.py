"""The transformer of HY-WorldPlay, its sampler and its memory.

`SPEC.md` beside this file is the contract of the model: what docstrings call "spec section N" are its sections.
"""
