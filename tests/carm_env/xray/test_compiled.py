import numba
import pytest

from carm_env.xray import compiled


def double(x):
    return 2 * x


@pytest.mark.parametrize("decorator", [compiled.compiled, compiled.compiled_fast])
def test_a_function_computes_what_it_did(decorator):
    assert decorator(double)(21.0) == 42.0


def test_without_a_writable_cache_functions_are_compiled_anyway(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(double)(21.0) == 42.0
