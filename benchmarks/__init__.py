"""Programs that print the figures of benchmarks/README.md; run them when nothing else computes."""
