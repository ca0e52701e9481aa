"""What `recsys train` prints while it trains."""

import io

from rich.console import Console

from recsys.evaluation.evaluate import Metrics
from recsys.progress import training_progress
from recsys.training.reports import TrainingProgress


def test_without_a_terminal_it_prints_the_rate_and_the_time_left() -> None:
    console = Console(file=io.StringIO(), width=160)
    measured = Metrics(auc=0.75, gauc=None, log_loss=0.5, samples=4, positives=2)
    with training_progress(console) as report:
        for step in range(1, 21):
            epoch = (step - 1) // 10
            report(TrainingProgress(step, 20, epoch, 1234.6, 0.5, epochs=2, eta_s=3.0 * (20 - step)))
            if step in (5, 10):
                report(TrainingProgress(step, 20, step // 10, 1234.6, 0.5, measured, epochs=2))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "step 4 of 20: loss 0.5000  1,235 samples/s  0:00:48 left" in lines
    assert [line.partition(":")[0] for line in lines if "validation AUC 0.7500" in line] == ["step 5", "epoch 1"]
