"""Train a timm network with timm's optimizer, schedule, MixUp and running mean of the weights, as its train.py does.

torchrun --nproc-per-node 2 examples/engines/timm_train.py data/tiny --out runs/timm.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import init_distributed_device, is_primary

import alexnet_fast as af


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/timm.pt"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    args = parser.parse_args()

    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = init_distributed_device(args)  # sets args.rank, args.world_size and args.distributed
    torch.manual_seed(0)
    classes = len(af.read_dataset_info(args.dataset).classes)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=classes)  # draws from numpy: the loader seeds it
    loader = af.open_loader(
        args.dataset, split="train", batch_size=args.batch_size, image_size=args.image_size, device=device,
        rank=args.rank, world_size=args.world_size, batch_transform=mixup,
    )  # fmt: skip
    network = timm.create_model(args.model, num_classes=classes).to(device)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05, weight_decay=1e-4)
    schedule = CosineLRScheduler(optimizer, t_initial=args.epochs * len(loader), t_in_epochs=False)
    criterion = SoftTargetCrossEntropy()
    done = 0
    if args.out.exists():
        kept = torch.load(args.out, map_location=device)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        loader.load_state_dict(kept["loader"])
        done = kept["done"]
        print(f"going on at {loader.state()}")
    step = torch.nn.parallel.DistributedDataParallel(network) if args.distributed else network

    steps = 0
    while loader.epoch < args.epochs and steps < args.max_steps:
        for images, labels in loader:
            schedule.step_update(done)
            loss = criterion(step(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps, done = steps + 1, done + 1
            if steps >= args.max_steps:
                break
    if is_primary(args):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        states = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        torch.save({**states, "done": done}, args.out)
        print(f"loss {loss.item():.6f} after {steps} steps")
    loader.close()
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
