"""The same work in PyTorch: programs of their own, for a Python that has torch; each prints one line of JSON."""
