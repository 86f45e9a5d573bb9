"""Measure what ternary layers cost in accuracy after fine-tuning, over seeds:

    python tests/bench/bit_accuracy.py best.pt data.yaml
        [imgsz=320] [epochs=15] [seeds=0,1,2] [bits=none,head,all] [folder=runs/bit_accuracy]

For each seed and part: `bitfalcon bit mode=qat`, mAP on val of the weights that it keeps, and of the packed file. none
is the float model by the same schedule. A run that is finished is not done again. The ranking of blocks is printed by
`bitfalcon bit mode=scan model=best.pt data=data.yaml`.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from bitfalcon_plugin.bit.packing import pack
from bitfalcon_plugin.bit.qat import run_qat
from bitfalcon_plugin.config.files import write_text
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.weights.foreign import open_checkpoint
from bitfalcon_plugin.yolo import YOLO


def measured(weights: str, data: str, imgsz: int, epochs: int, seed: int, bit: str, folder: Path) -> dict[str, float]:
    name, common = f"{bit}-{seed}", {"data": data, "imgsz": imgsz, "device": "cpu", "plots": False}
    tuned = run_qat(
        load_settings(
            {
                "mode": "bit",
                "step": "qat",
                "model": weights,
                "bit": bit,
                "epochs": epochs,
                "seed": seed,
                "batch": 16,
                "project": str(folder),
                "name": name,
                "exist_ok": True,
                "cache": "ram",
                **common,
            }
        )
    )
    row = {"tuned": tuned.metrics.ap}
    if bit != "none":
        path = folder / f"{name}-bit.pt"
        pack(open_checkpoint(tuned.path), path)
        row |= {"packed": YOLO(path).val(**common).ap, "megabytes": path.stat().st_size / 1e6}
    return row


def main(words: list[str]) -> None:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    weights, data = (word for word in words if "=" not in word)
    folder = Path(options.get("folder", "runs/bit_accuracy"))
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "rows.json"
    rows = json.loads(table.read_text()) if table.is_file() else {}
    bits = options.get("bits", "none,head,all").split(",")
    for seed in map(int, options.get("seeds", "0,1,2").split(",")):
        for bit in bits:
            if (key := f"{bit}-{seed}") not in rows:
                rows[key] = measured(
                    weights, data, int(options.get("imgsz", 320)), int(options.get("epochs", 15)), seed, bit, folder
                )
                write_text(table, json.dumps(rows, indent=1))
    for bit in bits:
        found = {key: row for key, row in rows.items() if key.startswith(f"{bit}-")}
        for what in ("tuned", "packed"):
            aps = [100 * row[what] for row in found.values() if what in row]
            if aps:
                print(f"bit={bit:<5} {what:<7} mAP {statistics.mean(aps):.2f} ({', '.join(f'{ap:.2f}' for ap in aps)})")


if __name__ == "__main__":
    main(sys.argv[1:])
