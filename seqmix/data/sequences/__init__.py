"""Labeled sequences: Long Range Arena, generated recall tasks, raw speech and pixels."""
