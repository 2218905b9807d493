"""Train a ResNet with Lightning Fabric on any number of processes; a stopped run goes on in mid-epoch.

python examples/engines/fabric_train.py data/tiny --devices 2 --out runs/fabric
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torchvision
from lightning.fabric import Fabric

import alexnet_fast as af


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/fabric"))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="of each process")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    options = parser.parse_args()

    fabric = Fabric(accelerator="auto", devices=options.devices)
    fabric.launch()  # starts the other processes
    fabric.seed_everything(0, verbose=False)
    # The loader takes its rank from the engine, and its batches lie on the device: setup_dataloaders() is not needed.
    # torchrun says how many processes share the cores; Fabric does not, so each is told its share.
    loader = af.open_loader(
        options.dataset, split="train", batch_size=options.batch_size, image_size=options.image_size,
        device=fabric.device, rank=fabric.global_rank, world_size=fabric.world_size,
        num_workers=max(1, os.cpu_count() // options.devices),
    )  # fmt: skip
    network = torchvision.models.resnet18(num_classes=len(loader.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = fabric.setup(network, optimizer)
    # Fabric asks each of them for its state_dict(); the loader's is the epoch and the step, the same on every rank.
    state = {"network": network, "optimizer": optimizer, "loader": loader}
    checkpoint = options.out / "checkpoint.ckpt"
    if checkpoint.exists():
        fabric.load(checkpoint, state)
        fabric.print(f"going on at {loader.state()}")

    options.out.mkdir(parents=True, exist_ok=True)
    steps = 0
    with (options.out / f"records-{fabric.global_rank}.txt").open("a") as seen:
        for epoch in range(loader.epoch, options.epochs):
            for batch in loader:
                loss = torch.nn.functional.cross_entropy(network(batch.images), batch.labels)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                print(epoch, *batch.records, file=seen)  # which images this rank has trained on
                steps += 1
                if steps == options.steps:
                    break
            fabric.save(checkpoint, state)
            fabric.print(f"epoch {epoch}, loss {loss.item():.4f} on the first rank")
            if steps == options.steps:
                break
    loader.close()


if __name__ == "__main__":
    main()
