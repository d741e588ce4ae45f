"""The compiled CPU kernels: where the library is, whether it loads, and why not.

Plain C++ without torch headers, built as an optional extension when the package is installed and called through ctypes
on raw pointers: it fits any torch and any Python.
"""

import ctypes
import warnings
from functools import cache
from pathlib import Path

# what this version of the package calls; seqmix_abi() of the library has to agree
ABI = 12
INSTRUCTION_SETS = ("baseline", "AVX2", "AVX-512")


def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None; ``problem()`` then says why."""
    found = _load()
    return found if isinstance(found, ctypes.CDLL) else None


def problem() -> str | None:
    """Why the kernels cannot be used here, or None if they can."""
    found = _load()
    return found if isinstance(found, str) else None


# torch.compile cannot trace the loading of a library, and need not; the mark is what assume_constant_result sets, whose
# import costs a second
problem._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@cache
def instruction_set() -> int:
    """Index into ``INSTRUCTION_SETS`` of the best build this processor runs."""
    kernels = library()
    return 0 if kernels is None else kernels.seqmix_best_isa()


@cache
def _load() -> ctypes.CDLL | str:
    files = sorted(p for p in Path(__file__).parent.glob("_kernels*") if p.suffix in (".so", ".pyd", ".dylib"))
    if not files:
        return "not compiled: install a C++ compiler (Debian: apt install g++) and run pip install again"
    found = _open(files[0])
    if isinstance(found, str):
        # a library that was built and does not work is a fault to be said once; none at all is a choice
        warnings.warn(f"the compiled kernels are not used, others run: {found}", RuntimeWarning, stacklevel=2)
    return found


def _open(file: Path) -> ctypes.CDLL | str:
    try:
        kernels = ctypes.CDLL(str(file))
        for function in (kernels.seqmix_scan, kernels.seqmix_conv, kernels.seqmix_ssd, kernels.seqmix_norm):
            function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        kernels.seqmix_best_isa.argtypes = []
        found = kernels.seqmix_abi()
    except (OSError, AttributeError) as error:
        return f"{file.name} cannot be loaded ({error}): delete it and run pip install again"
    if found != ABI:
        return f"{file.name} is of another version of seqmix: run pip install again"
    return kernels
