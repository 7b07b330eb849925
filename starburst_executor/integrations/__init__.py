"""Ways in for other libraries, each in a module of its own that loads that library. Those that take an executor need none."""
