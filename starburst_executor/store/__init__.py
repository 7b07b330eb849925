"""Where a session's bytes are: one seam (`base.py`), its two backends, and what is made of them."""
