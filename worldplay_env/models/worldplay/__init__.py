"""The transformer of HY-WorldPlay, its sampler and its memory.

`SPEC.md` beside this file is the contract of the model; docstrings of the package cite its sections as "spec section N".
"""
