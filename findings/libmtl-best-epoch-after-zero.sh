#!/usr/bin/env bash
# LibMTL 1.1.5 chooses the best epoch by the mean relative change of all metrics since the first epoch.
# If one metric is 0 in the first epoch, the first epoch in which it is not has an infinite change,
# and every better epoch after it is passed over, also those that are better in all metrics. If that
# metric stays 0, no epoch is chosen, and the result that is reported is 0.
#
# Output seen (the best is epoch 3 in all of them):
#     a metric begins at 0.1: epoch 3
#     a metric begins at 0.0: epoch 1
#     a metric stays at 0.0: epoch 0, result 0
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/pip" install --quiet --no-deps LibMTL==1.1.5
cat > "$folder/epochs.py" <<'PYTHON'
import importlib.util
import sys
import types
import warnings

warnings.simplefilter("ignore")  # NumPy's of the division
# LibMTL's __init__ needs a torchvision of 2021; its record of results does not.
package = types.ModuleType("LibMTL")
package.__path__ = importlib.util.find_spec("LibMTL").submodule_search_locations
sys.modules["LibMTL"] = package
from LibMTL._record import _PerformanceMeter
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric


def best(first):
    entry = {"metrics": ["a", "b"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1, 1]}
    meter = _PerformanceMeter({"task": entry}, False)
    for epoch, others in enumerate([0.1, 0.2, 0.5, 0.9]):
        meter.record_time("begin")
        meter.record_time("end")
        meter.results = {"task": [first[epoch], others]}
        meter.display("test", epoch)
    return meter.best_result


def said(found):
    whole = isinstance(found["result"], dict)
    return f"epoch {found['epoch']}" + ("" if whole else f", result {found['result']}")


for name, first in (
    ("a metric begins at 0.1", [0.1, 0.2, 0.5, 0.9]),
    ("a metric begins at 0.0", [0.0, 0.2, 0.5, 0.9]),
    ("a metric stays at 0.0", [0.0, 0.0, 0.0, 0.0]),
):
    print(f"FOUND {name}: {said(best(first))}")
PYTHON
"$folder/venv/bin/python" "$folder/epochs.py" | sed -n 's/.*FOUND //p' | tee "$folder/seen"
diff - "$folder/seen" <<'SEEN'
a metric begins at 0.1: epoch 3
a metric begins at 0.0: epoch 1
a metric stays at 0.0: epoch 0, result 0
SEEN
