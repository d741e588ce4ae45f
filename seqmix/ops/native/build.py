"""Build of the compiled kernels by pip: with OpenMP, or without, or not at all, with the reason recorded."""

from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

_FAILURES = (BaseError, CompileError, LinkError)
# read by ``seqmix.ops.native``, which is not there when this runs
_REASON = "_kernels.txt"


class BuildKernels(build_ext):
    """Build an extension that the package can do without."""

    def build_extension(self, ext: Extension) -> None:
        """Try with OpenMP, then without it, as Apple's clang has none."""
        reason = Path(self.get_ext_fullpath(ext.name)).with_name(_REASON)
        reason.unlink(missing_ok=True)
        try:
            super().build_extension(ext)
        except _FAILURES:
            ext.extra_compile_args = [flag for flag in ext.extra_compile_args if flag != "-fopenmp"]
            ext.extra_link_args = [flag for flag in ext.extra_link_args if flag != "-fopenmp"]
            try:
                super().build_extension(ext)
            except _FAILURES as error:
                reason.parent.mkdir(parents=True, exist_ok=True)
                reason.write_text(f"the C++ compiler failed ({error})")
                self.warn(f"the compiled kernels are left out, other implementations run: {error}")
