"""The stored record of tasks, format 3: its spans and blocks, their transitions and bytes (`docs/design/0011-spans.md`)."""
