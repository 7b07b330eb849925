"""Launchers: start, watch and stop workers. One small interface (`base.py`), one folder per platform."""
