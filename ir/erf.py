"""The error function of float64 arrays and its complement, which NumPy lacks.

Rational Chebyshev approximations on three ranges of |x| (W. J. Cody, "Rational Chebyshev
approximation for the error function", Mathematics of Computation 23, 1969); relative error about
one unit in the last place.
"""

from __future__ import annotations

import numpy as np

_A = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
      3.20937758913846947e3)  # fmt: skip
_B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
      2.84423683343917062e3)  # fmt: skip
_C = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
      2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
      1.23033935479799725e3)  # fmt: skip
_D = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
      1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
      1.23033935480374942e3)  # fmt: skip
_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
      1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_Q = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
      6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip
_INVERSE_ROOT_PI = 0.56418958354775628695


_NEAR = 0.46875
"""Up to here erf is a quotient of polynomials, beyond it erfc is an exponential times one."""


def erf(x: np.ndarray) -> np.ndarray:
    """erf of a float64 array (any shape); NaN stays NaN."""
    flat = np.asarray(x, dtype=np.float64).ravel()
    size = np.abs(flat)
    out = np.copysign(1.0 - _tail(size), flat)
    near = size <= _NEAR
    out[near] = _near(flat[near])
    return out.reshape(np.shape(x))


def erfc(x: np.ndarray) -> np.ndarray:
    """``1 - erf(x)`` of a float64 array (any shape) without its cancellation; NaN stays NaN."""
    flat = np.asarray(x, dtype=np.float64).ravel()
    size = np.abs(flat)
    tail = _tail(size)
    out = np.where(flat < 0.0, 2.0 - tail, tail)
    near = size <= _NEAR
    out[near] = 1.0 - _near(flat[near])
    return out.reshape(np.shape(x))


def _near(x: np.ndarray) -> np.ndarray:
    """erf of small numbers."""
    t = x * x
    return x * np.polyval(_A, t) / np.polyval(_B, t)


def _tail(a: np.ndarray) -> np.ndarray:
    """erfc of numbers above ``_NEAR``, NaN of NaN; of other numbers anything."""
    out = np.where(np.isnan(a), a, 0.0)
    with np.errstate(all="ignore"):
        middle = (a > _NEAR) & (a <= 4.0)
        t = a[middle]
        out[middle] = _gauss(t) * np.polyval(_C, t) / np.polyval(_D, t)
        high = (a > 4.0) & (a < 28.0)  # beyond, it is 0 in float64
        t = a[high]
        u = 1.0 / (t * t)
        rest = (_INVERSE_ROOT_PI - u * np.polyval(_P, u) / np.polyval(_Q, u)) / t
        out[high] = _gauss(t) * rest
    return out


def _gauss(t: np.ndarray) -> np.ndarray:
    """exp(-t*t), with t*t split so that its rounding error does not matter."""
    head = np.trunc(t * 16.0) / 16.0
    return np.exp(-head * head) * np.exp(-(t - head) * (t + head))
