"""Loading of the compiled CPU kernels.

Plain C++ without torch headers, built as an optional extension when the package is installed and called through ctypes
on raw pointers: it fits any torch and any Python.
"""

import ctypes
import warnings
from functools import cache
from pathlib import Path

# interface version that this package calls; seqmix_abi() of the library must agree
ABI = 15
# file in which the build records why it failed
REASON = "_kernels.txt"
KERNELS = ("scan", "conv", "ssd", "delta", "norm", "recurrence", "slstm")
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


def describe() -> str:
    """The instruction set of the loaded kernels, and whether they use several threads."""
    kernels = library()
    threads = "" if kernels is None or kernels.seqmix_openmp() else ", one thread: the compiler has no OpenMP"
    return INSTRUCTION_SETS[instruction_set()] + threads


@cache
def _load() -> ctypes.CDLL | str:
    folder = Path(__file__).parent
    files = sorted(p for p in folder.glob("_kernels*") if p.suffix in (".so", ".pyd", ".dylib"))
    if not files:
        reason = folder / REASON
        if reason.is_file():
            return f"not compiled: {reason.read_text(errors='replace').strip()}; mend that and run pip install again"
        return "not compiled: install a C++ compiler (Debian: apt install g++) and run pip install again"
    # builds of other versions may lie beside the one that fits
    faults = []
    for file in files:
        found = _open(file)
        if not isinstance(found, str):
            return found
        faults.append(found)
    # warn once about a library that was built and does not load; no library at all is a choice
    warnings.warn(f"the compiled kernels are not used, others run: {faults[-1]}", RuntimeWarning, stacklevel=2)
    return faults[-1]


def _open(file: Path) -> ctypes.CDLL | str:
    try:
        kernels = ctypes.CDLL(str(file))
        for kernel in KERNELS:
            getattr(kernels, f"seqmix_{kernel}").argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        kernels.seqmix_best_isa.argtypes = kernels.seqmix_openmp.argtypes = []
        found = kernels.seqmix_abi()
    except (OSError, AttributeError) as error:
        return f"{file.name} cannot be loaded ({error}): delete it and run pip install again"
    if found != ABI:
        return f"{file.name} is of another version of seqmix: run pip install again"
    return kernels
