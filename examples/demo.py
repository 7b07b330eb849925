"""What `make demo` shows: a real job on local workers, then the same job surviving the death of its client.

python examples/demo.py
"""

import stdlib_census
import survive

print("1. One plain map over real input\n")
measured = stdlib_census.main()
print("\n2. The client dies, the work does not\n")
survive.main()
print(f"\nMeasured in 1.\n\n{measured}")
