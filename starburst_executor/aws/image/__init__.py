"""Images of workers: what must be in one, and who builds it."""
