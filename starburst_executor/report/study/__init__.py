"""The report of a study: its facts, figures of them for pages and papers, and one HTML page."""
