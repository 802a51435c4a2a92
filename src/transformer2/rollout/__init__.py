"""Engines that run a language model, behind one protocol."""
