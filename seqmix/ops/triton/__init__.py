"""Triton kernels for CUDA, imported when an op first picks one; without a GPU they run in Triton's interpreter."""
