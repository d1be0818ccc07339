"""A small BERT with two heads in Transformers' Trainer: count conflicts, then weight gradients.

pip install 'libmtl-recon[huggingface]'
python huggingface_trainer.py --epochs 2

The weights are random and the sentences synthetic, so that nothing is downloaded. For a trained
encoder use BertModel.from_pretrained(...).
"""

import argparse
import tempfile

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import BertConfig, BertModel, TrainingArguments, set_seed

import libmtl_recon
from libmtl_recon.integrations.huggingface import MultiTaskTrainer

TASKS = ("topic", "tone")
ABSENT = -100


class TwoHeads(nn.Module):
    """An encoder with one head per task, which returns one loss per task."""

    def __init__(self):
        super().__init__()
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        self.bert = BertModel(BertConfig(vocab_size=54, num_attention_heads=2, **size))
        self.heads = nn.ModuleDict({task: nn.Linear(32, 3) for task in TASKS})

    def forward(self, input_ids, topic, tone):
        z = self.bert(input_ids=input_ids).pooler_output
        logits = {task: head(z) for task, head in self.heads.items()}
        losses = {}
        for task, labels in (("topic", topic), ("tone", tone)):
            there = labels != ABSENT
            # A task without any label in this batch is absent.
            losses[task] = (
                cross_entropy(logits[task][there], labels[there]) if there.any() else None
            )
        return {"losses": losses, "logits": tuple(logits.values())}


class Sentences(Dataset):
    """Sentences from 54 words; most words match the sentence's topic, and most match its tone."""

    def __init__(self, count):
        topic, tone = torch.randint(0, 3, (2, count))
        topics, tones = (
            torch.where(torch.rand(count, 12) < 0.5, one[:, None], torch.randint(0, 3, (count, 12)))
            for one in (topic, tone)
        )
        words = (3 * topics + tones) * 6 + torch.randint(0, 6, (count, 12))
        tone[::4] = ABSENT
        self.columns = {"input_ids": words, "topic": topic, "tone": tone}

    def __len__(self):
        return len(self.columns["input_ids"])

    def __getitem__(self, place):
        return {name: column[place] for name, column in self.columns.items()}


def train(epochs, folder, **kwargs):
    """Train a new network, and return its trainer."""
    set_seed(0)
    model = TwoHeads()
    if kwargs.pop("score", False):
        kwargs["probe"] = libmtl_recon.ConflictProbe(model.bert, TASKS)
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        label_names=list(TASKS),
    )
    trainer = MultiTaskTrainer(model, arguments, train_dataset=Sentences(640), **kwargs)
    trainer.train()
    return trainer


def main():
    """Count conflicts in one training, and weight gradients in another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        probe = train(epochs, folder, score=True).probe
        print(f"{probe.steps} steps; the layers in which the tasks conflict most come first:")
        for layer in probe.profile({"dataset": "made up"}).layers(S=-0.1, K=3):
            print(f"  {layer}")
        trainer = train(epochs, folder, weighting=libmtl_recon.gradops_weights)
        print(trainer.step_result.named_weights())


if __name__ == "__main__":
    main()
