#!/usr/bin/env bash
# Optuna 5.0.0: trials with whole-number values, as a count of parameters is one, can be added to a
# study of two objectives (`create_trial(values=[3, 9])`, `add_trial`), but the TPE sampler then
# cannot choose: NumPy refuses to scale their array of integers in place. With one objective, with
# the same values as floats, or told by `study.tell`, which converts them, it chooses.
#
# Output seen:
#     two objectives, float: chosen
#     one objective, int: chosen
#     two objectives, int: UFuncTypeError
#     two objectives, int, told: chosen
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
from optuna.trial import create_trial

optuna.logging.set_verbosity(optuna.logging.ERROR)
COUNT = 12  # of trials, more than the sampler draws at random


def made(objectives):
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3)
    return optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)


def chooses(study):
    try:
        study.ask().suggest_float("x", 0, 1)
    except TypeError as error:
        return type(error).__name__
    return "chosen"


def added(kind, objectives):
    study = made(objectives)
    for place in range(COUNT):
        values = [kind(place), kind(COUNT - place)][:objectives]
        within = {"x": FloatDistribution(0, 1)}
        study.add_trial(create_trial(params={"x": place / 20}, distributions=within, values=values))
    return chooses(study)


def told():
    study = made(2)
    for place in range(COUNT):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, [place, COUNT - place])
    return chooses(study)


print("two objectives, float:", added(float, 2))
print("one objective, int:", added(int, 1))
print("two objectives, int:", added(int, 2))
print("two objectives, int, told:", told())
PYTHON
"$folder/venv/bin/python" "$folder/study.py" | tee "$folder/seen"
diff - "$folder/seen" <<'SEEN'
two objectives, float: chosen
one objective, int: chosen
two objectives, int: UFuncTypeError
two objectives, int, told: chosen
SEEN
