"""Speed and memory against rivals, one command a case: `python -m benchmarks CASE`; see docs/performance.md."""
