"""Engines that run a language model, behind one protocol."""

CHUNK_LOGITS = 2**25
"""Logits held at once, in numbers: 128 MB in float32."""
