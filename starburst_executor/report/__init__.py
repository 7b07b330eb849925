"""Reports on a session: what is stored, gathered in one pass and bounded memory; charts of it; a page to keep; metrics; messages."""
