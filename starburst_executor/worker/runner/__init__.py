"""Runners: the crash-isolated processes that call user code, and how the agent speaks to them."""
