"""What ternary layers cost in accuracy after fine-tuning, over seeds.

    python tests/bench/bit_accuracy.py best.pt data.yaml [imgsz=320] [epochs=15] [seeds=0,1,2] [bits=none,head,all]
        [folder=runs/bit_accuracy]

For each seed and value of bit=: `bitfalcon bit mode=qat`, mAP on val of the chosen weights, and of the packed file.
bit=none is the float model by the same schedule. Finished runs, recorded in rows.json, are not repeated. The ranking of
blocks: `bitfalcon bit mode=scan model=best.pt data=data.yaml`.
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


def fine_tuned(weights: str, seed: int, bit: str, epochs: int, folder: Path, common: dict) -> dict[str, float]:
    """Fine-tune once; return the mAP (0 to 1) of the weights and of the packed file, and its megabytes."""
    name = f"{bit}-{seed}"
    task = {"mode": "bit", "step": "qat", "model": weights, "bit": bit, "epochs": epochs, "seed": seed, "batch": 16}
    output = {"project": str(folder), "name": name, "exist_ok": True, "cache": "ram"}
    tuned = run_qat(load_settings({**task, **output, **common}))
    record = {"tuned": tuned.metrics.ap}
    if bit != "none":
        path = folder / f"{name}-bit.pt"
        pack(open_checkpoint(tuned.path), path)
        record |= {"packed": YOLO(path).val(**common).ap, "megabytes": path.stat().st_size / 1e6}
    return record


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    weights, data = (argument for argument in arguments if "=" not in argument)
    folder, epochs = Path(options.get("folder", "runs/bit_accuracy")), int(options.get("epochs", 15))
    common = {"data": data, "imgsz": int(options.get("imgsz", 320)), "device": "cpu", "plots": False}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.json"
    records = json.loads(path.read_text()) if path.is_file() else {}
    bits = options.get("bits", "none,head,all").split(",")
    for seed in map(int, options.get("seeds", "0,1,2").split(",")):
        for bit in bits:
            if (key := f"{bit}-{seed}") not in records:
                records[key] = fine_tuned(weights, seed, bit, epochs, folder, common)
                write_text(path, json.dumps(records, indent=1))
    for bit in bits:
        own = [record for key, record in records.items() if key.startswith(f"{bit}-")]
        for kind in ("tuned", "packed"):
            aps = [100 * record[kind] for record in own if kind in record]
            if aps:
                print(f"bit={bit:<5} {kind:<7} mAP {statistics.mean(aps):.2f} ({', '.join(f'{ap:.2f}' for ap in aps)})")


if __name__ == "__main__":
    main(sys.argv[1:])
