"""Count letters in FASTQ files: one task a file, which reads it where it runs and returns a small summary.

python examples/reads.py [files]
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from starburst_executor import StarburstExecutor


class Summary(NamedTuple):
    """What is known of one file."""

    name: str
    reads: int
    letters: Counter[str]


def summarise(path: str) -> Summary:
    """Read a FASTQ file: four lines a read, of which the second has the letters."""
    letters: Counter[str] = Counter()
    reads = 0
    with Path(path).open(encoding="ascii") as file:
        for number, line in enumerate(file):
            if number % 4 == 1:
                letters.update(line.strip())
                reads += 1
    return Summary(Path(path).name, reads, letters)


def invent(folder: str, files: int = 6, reads: int = 2_000) -> list[str]:
    """Write files with random reads."""
    paths = []
    for number in range(files):
        draw = random.Random(number)
        path = Path(folder) / f"sample-{number}.fastq"
        with path.open("w", encoding="ascii") as file:
            for read in range(reads):
                file.write(f"@read{read}\n{''.join(draw.choices('ACGT', (3, 2, 2, 3), k=80))}\n+\n{'I' * 80}\n")
        paths.append(str(path))
    return paths


with tempfile.TemporaryDirectory() as folder, StarburstExecutor(workers=2) as ex:
    for summary in ex.map(summarise, sys.argv[1:] or invent(folder)):
        share = (summary.letters["G"] + summary.letters["C"]) / summary.letters.total()
        print(f"{summary.name}: {summary.reads:,} reads, {share:.1%} G or C")
