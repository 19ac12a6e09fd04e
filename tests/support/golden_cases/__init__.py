"""The checks behind `tests/support/golden.py`: a module a part of the package, a function a kind of case."""
