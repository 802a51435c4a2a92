"""An OpenAI-compatible chat endpoint over a self-adaptive model (docs/serve.md)."""
