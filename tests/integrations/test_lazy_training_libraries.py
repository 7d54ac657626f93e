"""Instrumentors of heavy libraries, which they do not import."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import otel_progress as progress

library = sys.argv[1]
early = [name for name in ("torch", library) if name in sys.modules]
progress.configure(service_name="lazy", store="memory:", console=False, otlp=False)
{body}
progress.flush()
runs = [[one.root.info.type, one.root.status.value, one.root.current] for one in progress.get_history()]
print(json.dumps([early, runs]))
"""

BODIES = {
    "optuna": """
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
optuna.create_study().optimize(lambda trial: 1.0, n_trials=3)
""",
    "xgboost": """
import xgboost, numpy
xgboost.train({}, xgboost.DMatrix(numpy.eye(4), label=[0, 1, 0, 1]), 3)
""",
    "lightgbm": """
import lightgbm, numpy
data = lightgbm.Dataset(numpy.random.default_rng(0).random((60, 2)), label=[0, 1] * 30)
lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 3)
""",
    "keras": """
import keras, numpy
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(numpy.zeros((12, 2)), numpy.zeros((12, 1)), batch_size=4, verbose=0)
""",
    "transformers": """
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, index):
        return {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(index % 2)}

config = BertConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
)
arguments = TrainingArguments(
    output_dir=sys.argv[2], num_train_epochs=1, per_device_train_batch_size=4, use_cpu=True,
    disable_tqdm=True, save_strategy="no", report_to="none",
)
Trainer(BertForSequenceClassification(config), arguments, train_dataset=Rows()).train()
""",
}


@pytest.mark.parametrize("library", sorted(BODIES))
def test_opentelemetry_instrument_records_trainings_without_code(tmp_path: Path, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip("needs the group heavy")
    file = tmp_path / "train.py"
    file.write_text(PROGRAM.replace("{body}", BODIES[library]), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {
        "KERAS_BACKEND": "torch",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    found = importlib.util.find_spec("opentelemetry.instrumentation.auto_instrumentation.sitecustomize")
    assert found is not None
    assert found.origin is not None
    environ["PYTHONPATH"] = str(Path(found.origin).parent)
    command = [sys.executable, str(file), library, str(tmp_path / "out")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    early, runs = json.loads(done.stdout.splitlines()[-1])
    assert early == []
    kind = "study" if library == "optuna" else "training"
    assert runs == [[kind, "completed", 3]], done.stderr
