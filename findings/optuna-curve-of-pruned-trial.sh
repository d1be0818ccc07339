#!/usr/bin/env bash
# Optuna 5.0.0: a study of two objectives takes a trial that was ended early and has values of epochs
# (`create_trial(state=PRUNED, intermediate_values=...)`, `add_trial`): storages keep them, though
# `trial.report` refuses to write them there. The TPE sampler then cannot choose any more, for it
# compares pruned trials by these values and asks for the study's one direction. NSGA-II chooses, and
# so does TPE where the pruned trial has no such values.
#
# Output seen:
#     TPESampler, no pruned trial: chosen
#     TPESampler, pruned without values: chosen
#     TPESampler, pruned with values: RuntimeError
#     NSGAIISampler, pruned with values: chosen
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 numpy
cat > "$folder/study.py" <<'PYTHON'
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.ERROR)
WITHIN = {"x": FloatDistribution(0, 1)}


def chooses(sampler, pruned):
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for place in range(12):
        values = [float(place), float(12 - place)]
        params = {"x": place / 20}
        study.add_trial(create_trial(params=params, distributions=WITHIN, values=values))
    if pruned is not None:
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params={"x": 0.9},
                distributions=WITHIN,
                intermediate_values=pruned,
            )
        )
    try:
        study.ask().suggest_float("x", 0, 1)
    except RuntimeError as error:
        return type(error).__name__
    return "chosen"


def tpe():
    return optuna.samplers.TPESampler(seed=0, n_startup_trials=3)


print("TPESampler, no pruned trial:", chooses(tpe(), None))
print("TPESampler, pruned without values:", chooses(tpe(), {}))
print("TPESampler, pruned with values:", chooses(tpe(), {0: 1.0}))
genetic = optuna.samplers.NSGAIISampler(seed=0, population_size=4)
print("NSGAIISampler, pruned with values:", chooses(genetic, {0: 1.0}))
PYTHON
"$folder/venv/bin/python" "$folder/study.py" | tee "$folder/seen"
diff - "$folder/seen" <<'SEEN'
TPESampler, no pruned trial: chosen
TPESampler, pruned without values: chosen
TPESampler, pruned with values: RuntimeError
NSGAIISampler, pruned with values: chosen
SEEN
