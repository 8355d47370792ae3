"""`python -m bigjax` is the `bigjax` command."""

from bigjax.cli import script

script()
