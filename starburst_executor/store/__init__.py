"""Object stores: one interface (`base.py`), two backends, and retries (`patient.py`). Bytes with conditional writes, no more."""
