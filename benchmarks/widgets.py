"""How long a widget takes to answer a slider: asked for are 200 ms.

    python benchmarks/widgets.py [--moves 20]

The statistics come from the cache that the notebooks share, or are computed first. A move sets the slider and waits
until figure and facts stand; the way to the browser is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from comp_lib.analysis import Sample, curves, neurons
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.shape import Shape

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))  # where the course is
from course.hybrid_granularity import stored_sensitivity  # noqa: E402
from course.layer_importance import layer_study  # noqa: E402
from course.widgets.explorers import LayerExplorer, NeuronExplorer, Planner  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=20)
    moves = parser.parse_args().moves
    model, tokenizer = load_model(EMBEDDED)
    ids = calibration_tokens("calibration", tokenizer, sequences=2, length=128)
    study, shape = layer_study(model, ids, greedy=1), Shape.of(model)
    sample = Sample(ids, ("prose",) * len(ids))
    layers, explorer = LayerExplorer(study), NeuronExplorer(neurons(model, sample), curves(model, sample))
    stored = json.loads(Path(__file__).with_name("hybrids.json").read_text("utf-8"))
    planner = Planner(shape, stored_sensitivity(stored), study.mean_harm.tolist())
    for name, slider in (
        ("layer explorer", layers.layer),
        ("neuron explorer", explorer.share),
        ("planner", planner.ratio),
    ):
        times = []
        for move in range(moves):
            target = slider.min + 1 + move % (slider.max - 1)
            if target == slider.value:
                continue
            start = time.perf_counter()
            slider.value = target
            times.append(1000 * (time.perf_counter() - start))
        print(f"{name:16} median {statistics.median(times):4.0f} ms, slowest {max(times):4.0f} ms, {len(times)} moves")


if __name__ == "__main__":
    main()
