"""Object stores: one interface (`base.py`), two implementations, and retries (`patient.py`). Bytes with conditional writes, no more."""
