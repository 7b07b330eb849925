"""The ten lines of the README: `StarburstExecutor` replaces `ProcessPoolExecutor`.

python examples/hello.py
"""

from starburst_executor import StarburstExecutor


def square(x: int) -> int:
    return x * x


with StarburstExecutor(workers=2) as ex:
    print("one call:  ", ex.submit(square, 12).result())
    print("many calls:", list(ex.map(square, range(10))))
    print("a lambda:  ", ex.submit(lambda: "pickled by value").result())
