"""`python -m starburst_executor.cli`: the `starburst` command where its script is not on the path."""

import sys

from starburst_executor.cli import entry

sys.exit(entry())
