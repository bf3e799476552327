"""PyTorch inside --mem 4g: what it sees, that it is refused past the limit, that it recovers.
Prints one JSON object; exits 1 if anything is not as it must be."""
import json
import re
import subprocess
import sys

import torch

GIB = 1 << 30
limit = int(sys.argv[1]) if len(sys.argv) > 1 else 4 * GIB
seen = {}
free, total = torch.cuda.mem_get_info()
seen["total"], seen["free"] = total, free
seen["properties_total"] = torch.cuda.get_device_properties(0).total_memory
held, denied = [], None
try:
    while True:
        held.append(torch.empty(64 << 20, dtype=torch.uint8, device="cuda").fill_(1))
except torch.OutOfMemoryError as error:
    denied = str(error)
seen["filled"] = len(held) * (64 << 20)
seen["message"] = denied
used = limit - torch.cuda.mem_get_info()[0]
del held[: len(held) // 2]
torch.cuda.empty_cache()
again = torch.ones(1 << 26, device="cuda")
seen["retry_sum"] = float(again.sum())
smi = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                     capture_output=True, text=True)
seen["nvidia_smi_mib"] = smi.stdout.strip()
gib = re.escape(f"{limit / GIB:.2f} GiB")
checks = {
    "mem_get_info total": total == limit,
    "properties total": seen["properties_total"] == limit,
    "refused": denied is not None,
    "message names the limit": bool(denied and re.search(f"total capacity of {gib}", denied)),
    "filled to within 64 MiB": used > limit - (128 << 20),
    "retry works": seen["retry_sum"] == float(1 << 26),
    "nvidia-smi": smi.stdout.split() == [str(limit >> 20)],
}
seen["checks"] = checks
print(json.dumps(seen))
sys.exit(0 if all(checks.values()) else 1)
