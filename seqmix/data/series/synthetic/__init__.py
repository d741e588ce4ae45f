"""Generated series: known cycles for the demo, and the mixture for pretraining."""
