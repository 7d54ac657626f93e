"""Distributed training: two ranks on the loopback interface are one operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the group heavy")

from otel_progress.testing import recording
from tests.support.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.process]

CONFIGURE = """
import os, sys
import otel_progress as progress
import torch

torch.set_num_threads(1)
progress.configure(service_name="ranks", store=sys.argv[1], console=False, otlp=False)
"""

TRANSFORMERS = """
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from otel_progress.integrations import transformers as integration

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, index):
        return {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(index % 2)}

config = BertConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
)
arguments = TrainingArguments(
    output_dir=sys.argv[2], num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True,
    ddp_backend="gloo", report_to="otel_progress", disable_tqdm=True, save_strategy="no",
    eval_strategy="epoch",
)
Trainer(BertForSequenceClassification(config), arguments, train_dataset=Rows(), eval_dataset=Rows()).train()
assert torch.distributed.get_world_size() == 2
torch.distributed.destroy_process_group()
"""

LIGHTNING = """
import lightning

class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, index):
        return self.layer(batch).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

rows = torch.utils.data.DataLoader(torch.ones(32, 2), batch_size=4)
trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[2],
)
trainer.fit(Line(), rows)
assert trainer.world_size == 2
torch.distributed.destroy_process_group()
"""


SPAWNED = """
def train(rank, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    sys.argv[2] = folder
    exec(TRAINING, globals())

if __name__ == "__main__":
    progress.configure(service_name="ranks", store=sys.argv[1], console=False, otlp=False)
    with progress.operation("nightly"):
        torch.multiprocessing.spawn(progress.wrap(train), args=(sys.argv[2],), nprocs=2)
"""


def test_training_of_spawned_ranks_is_a_level_of_the_operation(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the group heavy")
    start = CONFIGURE.partition("torch.set_num_threads")[0]
    file = tmp_path / "train.py"
    file.write_text(f"{start}\nTRAINING = {TRANSFORMERS!r}\n{SPAWNED}", encoding="utf-8")
    store = f"sqlite:///{tmp_path}/progress.db"
    environ = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, str(file), store, str(tmp_path / "out")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with recording(store=store) as reader:
        (found,) = reader.runtime.get_history()
        run = reader.operation(found.operation_id)
    assert (run.root.info.type, run.root.status.value) == ("nightly", "completed")
    trainings = [level for level in run.levels if level.info.type == "training"]
    assert [(level.status.value, level.current, level.total) for level in trainings] == [("completed", 8, 8)]


@pytest.mark.parametrize(("library", "program"), [("transformers", TRANSFORMERS), ("lightning", LIGHTNING)])
def test_training_of_two_ranks_is_one_operation(tmp_path: Path, library: str, program: str) -> None:
    pytest.importorskip(library, reason="needs the group heavy")
    file = tmp_path / "train.py"
    file.write_text(CONFIGURE + program, encoding="utf-8")
    store = f"sqlite:///{tmp_path}/progress.db"
    environ = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_RUN_ID": "test",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(file), store, str(tmp_path / "out")],
            env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    with recording(store=store) as reader:
        (run,) = reader.runtime.get_history()
        run = reader.operation(run.operation_id)
    # Each rank trains on half of the rows: 4 batches per epoch.
    assert (run.root.status.value, run.root.current, run.root.total) == ("completed", 8, 8)
    epochs = [level for level in run.levels if level.info.type == "epoch"]
    assert [(level.current, level.total) for level in epochs] == [(4, 4), (4, 4)]
