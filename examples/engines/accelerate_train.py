"""Train a ResNet with Hugging Face Accelerate, on any number of processes; a stopped run goes on in mid-epoch.

accelerate launch --num_processes 2 examples/engines/accelerate_train.py data/tiny --out runs/accelerate
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from accelerate import Accelerator

import alexnet_fast as af


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/accelerate"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    options = parser.parse_args()

    accelerator = Accelerator()
    torch.manual_seed(0)
    loader = af.open_loader(
        options.dataset, split="train", batch_size=options.batch_size, image_size=options.image_size,
        device=accelerator.device, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    network = torchvision.models.resnet18(num_classes=len(loader.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = accelerator.prepare(network, optimizer)  # the loader needs none of it: it knows its rank
    accelerator.register_for_checkpointing(loader)
    if options.out.exists():
        accelerator.load_state(str(options.out))
        accelerator.print(f"going on at {loader.state()}")

    steps = 0
    while loader.epoch < options.epochs and steps < options.max_steps:
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            steps += 1
            if steps >= options.max_steps:
                break
    accelerator.save_state(str(options.out))
    accelerator.print(f"loss {accelerator.reduce(loss.detach(), 'mean').item():.6f} after {steps} steps")
    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
