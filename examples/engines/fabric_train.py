"""Train a ResNet with Lightning Fabric, on any number of processes; a stopped run goes on in mid-epoch.

python examples/engines/fabric_train.py data/tiny --devices 2 --out runs/fabric.ckpt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from lightning.fabric import Fabric

import alexnet_fast as af


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/fabric.ckpt"))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    options = parser.parse_args()

    fabric = Fabric(accelerator="auto", devices=options.devices)
    fabric.launch()
    fabric.seed_everything(0, verbose=False)
    loader = af.open_loader(
        options.dataset, split="train", batch_size=options.batch_size, image_size=options.image_size,
        device=fabric.device, rank=fabric.global_rank, world_size=fabric.world_size,
    )  # fmt: skip
    network = torchvision.models.resnet18(num_classes=len(loader.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = fabric.setup(network, optimizer)
    state = {"network": network, "optimizer": optimizer, "loader": loader}  # Fabric asks it for its state_dict
    if options.out.exists():
        fabric.load(options.out, state)
        fabric.print(f"going on at {loader.state()}")

    steps = 0
    while loader.epoch < options.epochs and steps < options.max_steps:
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            steps += 1
            if steps >= options.max_steps:
                break
    fabric.save(options.out, state)
    fabric.print(f"loss {fabric.all_reduce(loss.detach()).item():.6f} after {steps} steps")
    loader.close()


if __name__ == "__main__":
    main()
