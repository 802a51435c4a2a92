"""Transformer²: self-adaptive LLMs, reproduced. See docs/map.md for the map of the package."""
