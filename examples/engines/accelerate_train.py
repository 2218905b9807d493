"""Train a ResNet with Hugging Face Accelerate on any number of processes; a stopped run goes on in mid-epoch.

    torchrun --nproc-per-node 2 examples/engines/accelerate_train.py data/tiny --out runs/accelerate

`accelerate launch` starts it as well (on CPUs alone, it needs MPI for more than one process).
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
    parser.add_argument("--batch-size", type=int, default=128, help="of each process")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, help="stop after so many, as where a job's time is up; call again to go on"
    )
    options = parser.parse_args()

    # Without a GPU it has to be told: it would take each of torchrun's processes for the only one, rank 0.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    torch.manual_seed(0)
    # The loader takes its rank from the engine. It is not given to prepare(): that would split its batches once more.
    loader = af.open_loader(
        options.dataset, split="train", batch_size=options.batch_size, image_size=options.image_size,
        device=accelerator.device, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    network = torchvision.models.resnet18(num_classes=len(loader.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = accelerator.prepare(network, optimizer)
    # Accelerate asks it for its state_dict(): the epoch and the step, the same on every rank.
    accelerator.register_for_checkpointing(loader)
    checkpoint = options.out / "checkpoint"
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"going on at {loader.state()}")

    options.out.mkdir(parents=True, exist_ok=True)
    steps = 0
    with (options.out / f"records-{accelerator.process_index}.txt").open("a") as seen:
        for epoch in range(loader.epoch, options.epochs):
            for batch in loader:
                loss = torch.nn.functional.cross_entropy(network(batch.images), batch.labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                print(epoch, *batch.records, file=seen)  # which images this rank has trained on
                steps += 1
                if steps == options.steps:
                    break
            accelerator.save_state(str(checkpoint))
            accelerator.print(f"epoch {epoch}, loss {loss.item():.4f} on the first rank")
            if steps == options.steps:
                break
    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
