"""Two tasks on scikit-learn's digits in Lightning: count conflicts, then weight gradients.

pip install 'libmtl-recon[lightning]'
python lightning_loop.py --epochs 3
"""

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import libmtl_recon
from libmtl_recon.integrations.lightning import MultiTaskModule

TASKS = ("digit", "ink")  # the digit, and the fraction of ink


class Digits(MultiTaskModule):
    """An encoder with one head per task."""

    def __init__(self, weighting=None, score=False):
        super().__init__()
        self.given, self.score = weighting, score
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(512, 64), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict({"digit": nn.Linear(64, 10), "ink": nn.Linear(64, 1)})

    def configure_weighting(self):
        return self.given

    def configure_probe(self):
        return libmtl_recon.ConflictProbe(self.encoder, TASKS) if self.score else None

    def training_step(self, batch, batch_index):
        images, digits, ink = batch
        z = self.encoder(images)
        losses = {
            "digit": cross_entropy(self.heads["digit"](z), digits),
            "ink": mse_loss(self.heads["ink"](z).squeeze(1), ink),
        }
        self.log_dict({f"loss/{task}": loss for task, loss in losses.items()})
        return self.joint_loss(losses)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data():
    """Return images, their digits, and their fractions of ink."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    ink = images.mean(dim=(1, 2, 3))
    return TensorDataset(images, torch.tensor(digits.target), (ink - ink.mean()) / ink.std())


def train(model, epochs):
    """Train a network, and return its last logged values."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(data(), batch_size=64, shuffle=True))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def main():
    """Count conflicts in one training, and weight gradients in another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs

    pl.seed_everything(0)
    scored = Digits(score=True)
    train(scored, epochs)
    profile = scored.probe.profile({"dataset": "digits"})
    print(f"{scored.probe.steps} steps; the layers in which the tasks conflict most come first:")
    for layer in profile.layers(S=-0.1, K=2):
        print(f"  {layer}")

    pl.seed_everything(0)
    weighed = Digits(weighting=libmtl_recon.gradops_weights)
    print(train(weighed, epochs))


if __name__ == "__main__":
    main()
