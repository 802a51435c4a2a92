"""Stages of a run: one process loads a model once and works through many steps with it."""
