"""Shows a real job on local workers, then the same job, whose client is killed. `make demo` runs it.

python examples/demo.py
"""

import stdlib_census
import survive

print("1. A plain map over real input\n")
measured = stdlib_census.main()
print("\n2. The client is killed, and the work continues\n")
survive.main()
print(f"\nMeasured in 1.\n\n{measured}")
