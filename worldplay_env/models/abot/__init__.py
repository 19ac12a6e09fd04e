"""The transformer of ABot-World, its sampler and its rolling cache.

`SPEC.md` beside this file is the contract of the model.
"""
