"""Transformer²: self-adaptive LLMs, reproduced. See README.md for the map of the package."""
