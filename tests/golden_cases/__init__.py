"""The checks behind `tests/golden.py`: one module a part of the package, one function a kind of recorded case."""
