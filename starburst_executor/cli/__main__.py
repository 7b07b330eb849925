"""`python -m starburst_executor.cli`: the `starburst` command for environments whose scripts are not on the path."""

import sys

from starburst_executor.cli import entry

sys.exit(entry())
