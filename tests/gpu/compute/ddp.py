"""Data-parallel training, one process a GPU, NCCL, on one host without a network.

Prints from rank 0 one JSON line: {"losses": of the first steps, "times": [[CLOCK_MONOTONIC ns, steps so far]]}.
Usage: ddp.py --meet DIR --name NAME --parties N [--seconds 4] [--ranks 2] [--device cuda|cpu]
  Jobs that share DIR begin together: each leaves its NAME there and waits for N of them.
"""
import argparse
import json
import os
import subprocess
import sys
import time

FIRST = 40


def launch(options):
    store = os.path.join(options.meet, f"{options.name}.store")
    environment = {"NCCL_NVLS_ENABLE": "0", "NCCL_IB_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo",
                   "GLOO_SOCKET_IFNAME": "lo", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    ranks = [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **environment, "DDP_RANK": str(rank),
                                                           "DDP_STORE": f"file://{store}"})
        for rank in range(options.ranks)
    ]
    deadline = time.monotonic() + 140
    status = 0
    for rank in ranks:
        try:
            status = rank.wait(max(1, deadline - time.monotonic())) or status
        except subprocess.TimeoutExpired:
            status = 124
    for rank in ranks:
        rank.kill()
    sys.exit(status)


def meet(options):
    open(os.path.join(options.meet, f"{options.name}.here"), "w").close()
    deadline = time.monotonic() + 60
    while sum(name.endswith(".here") for name in os.listdir(options.meet)) < options.parties:
        if time.monotonic() > deadline:
            raise SystemExit("the other jobs did not come")
        time.sleep(0.001)


def train(options, rank):
    import datetime

    import torch
    import torch.distributed as dist

    is_cuda = options.device == "cuda"
    device = torch.device("cuda", rank) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo", init_method=os.environ["DDP_STORE"], rank=rank,
                            world_size=options.ranks, timeout=datetime.timedelta(seconds=90))
    torch.manual_seed(1)
    width = 4096 if is_cuda else 64
    model = torch.nn.Sequential(
        torch.nn.Linear(256, width), torch.nn.GELU(), torch.nn.Linear(width, width), torch.nn.GELU(),
        torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, 16)
    ).to(device)
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank] if is_cuda else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    generator = torch.Generator().manual_seed(100 + rank)
    batches = [torch.randn(2048 if is_cuda else 32, 256, generator=generator).to(device) for _ in range(8)]
    losses, times, stop = [], [], torch.zeros(1, device=device)

    def step(i):
        x = batches[i % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(model(x), (x[:, :16] * 2).sin())
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(FIRST):
        losses.append(step(i))
    losses = [float(loss) for loss in losses]
    if rank == 0:
        meet(options)
    dist.barrier()
    begin = time.monotonic()
    for i in range(1 << 30):
        step(i)
        if i % 4 == 3:
            if is_cuda:
                torch.cuda.synchronize()
            times.append([time.monotonic_ns(), i + 1])
        if i % 20 == 19:  # all ranks end together
            stop.fill_(float(time.monotonic() - begin > options.seconds))
            dist.broadcast(stop, 0)
            if stop.item():
                break
    if rank == 0:
        print(json.dumps({"losses": losses, "times": times}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--meet", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--parties", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    rank = os.environ.get("DDP_RANK")
    if rank is None:
        launch(options)
    train(options, int(rank))


main()
