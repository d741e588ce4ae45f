"""Time series: windows of many series, panels, benchmarks, CSV files."""
