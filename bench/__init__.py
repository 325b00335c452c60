"""Side by side with the neighbours, in one run: ratios, not absolutes. `./dev bench`."""
