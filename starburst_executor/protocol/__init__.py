"""What is stored, and the rules by which it changes: pure functions and values, no I/O, clocks or threads."""
