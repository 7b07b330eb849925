"""The part that runs in the user's process: executors, futures, and the threads behind them."""
