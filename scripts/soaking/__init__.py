"""The soak: see scripts/soak."""
