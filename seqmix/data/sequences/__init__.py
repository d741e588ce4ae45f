"""Labeled sequences: Long Range Arena and generated recall tasks."""
