"""Runners: the crash-isolated processes that call user code, and the agent's protocol with them."""
