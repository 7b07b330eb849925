"""The stored records and the rules by which they change: pure functions and values, without I/O, clocks or threads."""
