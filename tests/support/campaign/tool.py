"""The program of the campaign's fourth stage: prints one metric, and writes another to a file."""

import json
import os
import sys

x, index, stage = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with open("cost.json", "w", encoding="utf-8") as file:
    json.dump({"cost": index % 4}, file)
with open(os.environ["CAMPAIGN_FOLDER"] + "/ended", "a", encoding="utf-8") as file:
    file.write(f"{stage}/{index}\n")
print(f"score={-x * x}")
sys.exit(index == 4)
