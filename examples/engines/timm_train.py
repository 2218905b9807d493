"""Train a timm network as timm's train.py does, on any number of processes; a stopped run goes on in mid-epoch.

    torchrun --nproc-per-node 2 examples/engines/timm_train.py data/tiny --out runs/timm

Optimizer, schedule, MixUp with CutMix and the running mean of the weights are timm's.
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
from timm.utils import ModelEmaV3, init_distributed_device, is_primary

import alexnet_fast as af


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/timm"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="of each process")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    args = parser.parse_args()

    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = init_distributed_device(args)  # sets args.rank, args.world_size and args.distributed
    torch.manual_seed(0)
    classes = len(af.read_dataset_info(args.dataset).classes)
    # timm mixes pairs of a batch, so it is a batch_transform. It draws from numpy, whose generator the loader seeds for
    # each batch: a resumed run mixes the same pairs.
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=classes)
    loader = af.open_loader(
        args.dataset, split="train", batch_size=args.batch_size, image_size=args.image_size, device=device,
        rank=args.rank, world_size=args.world_size, batch_transform=mixup,
    )  # fmt: skip
    network = timm.create_model(args.model, num_classes=classes).to(device)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05, weight_decay=1e-4)
    schedule = CosineLRScheduler(optimizer, t_initial=args.epochs * len(loader), t_in_epochs=False)
    mean = ModelEmaV3(network, decay=0.999)
    parts = {"network": network, "optimizer": optimizer, "mean": mean, "loader": loader}
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        kept = torch.load(checkpoint, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        print(f"rank {args.rank} goes on at {loader.state()}")
    trained = torch.nn.parallel.DistributedDataParallel(network) if args.distributed else network

    args.out.mkdir(parents=True, exist_ok=True)
    criterion = SoftTargetCrossEntropy()
    steps = 0
    with (args.out / f"records-{args.rank}.txt").open("a") as seen:
        for epoch in range(loader.epoch, args.epochs):
            for step, batch in enumerate(loader, loader.start_step):
                loss = criterion(trained(batch.images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                update = epoch * len(loader) + step + 1
                mean.update(network, step=update)
                schedule.step_update(update)
                print(epoch, *batch.records, file=seen)  # which images this rank has trained on
                steps += 1
                if steps == args.steps:
                    break
            if is_primary(args):
                # Written aside and renamed: a run that is killed meanwhile still has the older one.
                torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
                print(f"epoch {epoch}, loss {loss.item():.4f} on the first rank")
            if steps == args.steps:
                break
    loader.close()
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
