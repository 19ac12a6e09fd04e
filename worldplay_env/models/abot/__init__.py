"""The transformer of ABot-World, its sampler and its rolling cache."""
