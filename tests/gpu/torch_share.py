"""PyTorch loads for the share table: one JSON line each, {"load", "rate", "busy"}.

rate: iterations a second over a window that ends when the GPU has drained.
busy: share of wall time with our work on the GPU, by timed events around each iteration, pauses up to
      100 us filled (for loads whose native rate is limited by power, not by time).
Usage: torch_share.py [--seconds 3] [load ...]
"""
import json
import sys
import time

import torch

SECONDS = 3.0


def elementwise():
    x = torch.ones(1 << 24, device="cuda")
    return lambda: x.add_(1e-6)


def matmul_fp32():
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = torch.randn(1024, 1024, device="cuda"), torch.randn(1024, 1024, device="cuda")
    c = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=c)


def cuda_graph():
    a = torch.randn(256, 256, device="cuda")
    layers = [torch.nn.Linear(256, 256, device="cuda") for _ in range(48)]

    def step(x):
        with torch.no_grad():
            for layer in layers:
                x = torch.relu(layer(x))
        return x

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(a)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(a)
    return graph.replay


def compiled():
    # Large enough that the GPU, not Python, sets the pace: a share of native throughput is what is asked.
    model = torch.nn.Sequential(
        torch.nn.Linear(4096, 4096), torch.nn.GELU(), torch.nn.LayerNorm(4096), torch.nn.Linear(4096, 4096)
    ).cuda()
    x = torch.randn(2048, 4096, device="cuda")
    fast = torch.compile(model)

    def step():
        with torch.no_grad():
            fast(x)

    for _ in range(3):
        step()
    return step


def matmul_bf16():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    c = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=c)


LOADS = {f.__name__: f for f in (elementwise, matmul_fp32, cuda_graph, compiled, matmul_bf16)}


def window(step, seconds, batch):
    """Iterations a second; keeps at most two batches queued."""
    done, events = 0, [torch.cuda.Event(), torch.cuda.Event()]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    turn = 0
    while time.perf_counter() - begin < seconds:
        for _ in range(batch):
            step()
        done += batch
        events[turn % 2].record()
        turn += 1
        if turn > 1:
            events[turn % 2].synchronize()
    torch.cuda.synchronize()
    return done / (time.perf_counter() - begin)


def occupancy(step, seconds):
    """Percent of wall time in which the GPU worked on `step`.

    The gate holds launches back, so a start event recorded before a launch would count the wait too.
    Here start event, step and end event are one CUDA graph, which is one launch: what lies between the
    two events is the GPU's own time.
    """
    graphs = []
    for _ in range(4):
        start = torch.cuda.Event(enable_timing=True, external=True)
        end = torch.cuda.Event(enable_timing=True, external=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            start.record()
            step()
            end.record()
        graphs.append((graph, start, end))
    torch.cuda.synchronize()
    busy, turn = 0.0, 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        graph, start, end = graphs[turn % 4]
        if turn >= 4:
            end.synchronize()
            busy += start.elapsed_time(end)
        graph.replay()
        turn += 1
    torch.cuda.synchronize()
    wall = (time.perf_counter() - begin) * 1e3
    for graph, start, end in graphs[: min(turn, 4)]:
        busy += start.elapsed_time(end)
    return 100 * busy / wall


def main():
    global SECONDS
    names = sys.argv[1:]
    if "--seconds" in names:
        at = names.index("--seconds")
        SECONDS = float(names[at + 1])
        del names[at : at + 2]
    for name in names or LOADS:
        step = LOADS[name]()
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        each = (time.perf_counter() - begin) / 20
        batch = max(1, min(200, int(0.004 / each)))
        window(step, 0.7, batch)
        rate = window(step, SECONDS, batch)
        busy = occupancy(step, SECONDS) if name == "matmul_bf16" else None
        print(json.dumps({"load": name, "rate": rate, "busy": busy}), flush=True)


main()
