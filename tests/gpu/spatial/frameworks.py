"""PyTorch, Triton, CuPy and JAX in a partition. One JSON line: frameworks.py WHAT [SECONDS] [EPOCH_S]"""
import json
import sys
import time

what = sys.argv[1]
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3
at = float(sys.argv[3]) if len(sys.argv) > 3 else 0


def say(**values):
    print(json.dumps(values), flush=True)


def ranges(ids):
    ids, out = sorted(ids), []
    for i in ids:
        if out and out[-1][1] == i - 1:
            out[-1][1] = i
        else:
            out.append([i, i])
    return " ".join(f"{a}-{b}" for a, b in out)


def matmul():
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.randn(2048, 2048, device="cuda") for _ in range(2))
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    time.sleep(max(0, at - time.time()))
    start, count, steps = time.perf_counter(), 0, []
    last = start
    while last - start < seconds:
        for _ in range(4):
            a @ b
        torch.cuda.synchronize()
        now = time.perf_counter()
        steps.append(now - last)
        last = now
        count += 4
    steps.sort()
    n = len(steps)
    say(rate=count / (last - start), p50_ms=1e3 * steps[n // 2], p99_ms=1e3 * steps[n * 99 // 100])


def train():
    import torch

    torch.manual_seed(1)
    torch.use_deterministic_algorithms(False)
    layers = torch.nn.Sequential(*[m for _ in range(4) for m in (torch.nn.Linear(1024, 1024), torch.nn.GELU())]).cuda()
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3)
    x = torch.randn(256, 1024).cuda()  # CUDA's generator draws by the number of SMs
    loader = torch.utils.data.DataLoader(torch.arange(8.0), num_workers=2, pin_memory=True)
    for batch in loader:
        batch.cuda(non_blocking=True)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (layers(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    compiled = torch.compile(lambda v: torch.nn.functional.gelu(v @ v).sum())
    value = compiled(x[:, :256]).item()
    side = torch.cuda.Stream()
    static = torch.randn(512, 512, device="cuda")
    with torch.cuda.stream(side):
        for _ in range(3):
            static @ static
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = static @ static
    graph.replay()
    torch.cuda.synchronize()
    same = bool(torch.allclose(out, static @ static))
    say(losses=losses, compiled=value, graph=same, sms=torch.cuda.get_device_properties(0).multi_processor_count)


def triton_smids():
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def mark(seen, rounds, tiles):
        smid = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
        x = 1.0
        for _ in range(tl.program_id(0), tiles, tl.num_programs(0)):  # persistent: a program takes many tiles
            for _ in range(rounds):
                x = x * 1.0001 + 0.5
        tl.store(seen + smid, (x > 0).to(tl.int32))

    sms = torch.cuda.get_device_properties(0).multi_processor_count
    seen = torch.zeros(256, dtype=torch.int32, device="cuda")
    mark[(sms,)](seen, 2000, 64 * sms)
    torch.cuda.synchronize()
    ids = seen.nonzero().flatten().tolist()
    say(sms=sms, on=len(ids), set=ranges(ids))


def cupy_sum():
    import cupy

    value = float((cupy.arange(1 << 20, dtype=cupy.float64) ** 2).sum())
    sms = cupy.cuda.Device(0).attributes["MultiProcessorCount"]
    say(value=value, sms=sms)


def jax_matmul():
    import jax
    import jax.numpy as jnp

    x = jnp.arange(512.0 * 512).reshape(512, 512) / 1e5
    say(value=float(jax.jit(lambda v: (v @ v).sum())(x)), device=str(jax.devices()[0]))


{"matmul": matmul, "train": train, "triton": triton_smids, "cupy": cupy_sum, "jax": jax_matmul}[what]()
