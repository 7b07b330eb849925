"""One module for each command, or for a few that belong together: what it takes, what it calls, what it prints."""
