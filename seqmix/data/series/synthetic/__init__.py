"""Generated series: one with known cycles for the demo, and the mixture that pretrained models are trained on."""
