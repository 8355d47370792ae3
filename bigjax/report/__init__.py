"""What a run did, on one page: curves, throughput, examples and config. Never imports jax."""

from bigjax.report.page import write_report
from bigjax.report.plots import plot_metrics

__all__ = ["plot_metrics", "write_report"]
