"""What a run needs of the card, before and while it runs: geometry, estimate, fit, NVML."""
