"""Tune a scikit-learn model in two stages: a wide random search, then the best three with more folds. Needs scikit-learn.

python examples/study_sklearn.py

Stop it at any moment and start it again: it goes on where it stopped, and no finished trial runs twice.
"""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from starburst_executor import Stage, Study, Trial


def accuracy(trial: Trial, folds: int) -> dict[str, float]:
    """Return the mean and the spread of a model's accuracy over folds of the data set that comes with scikit-learn."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(
        n_estimators=20, max_depth=trial.params["depth"], max_features=trial.params["features"], random_state=0
    )
    scores = cross_val_score(model, inputs, labels, cv=folds)
    return {"accuracy": scores.mean(), "spread": scores.std()}


def search(trial: Trial) -> dict[str, float]:
    """Draw parameters from the trial's own random numbers: the same ones in every attempt, on every worker."""
    draw = trial.rng()
    trial.params.update(depth=draw.randint(1, 10), features=round(draw.uniform(0.1, 1.0), 2))
    return accuracy(trial, folds=3)


def confirm(trial: Trial) -> dict[str, float]:
    """Measure a survivor again: its parameters are in `trial.params`, and it is `trial.case`."""
    return accuracy(trial, folds=10)


study = Study(
    "forest",
    [
        Stage("search", search, trials=12, select=("accuracy", 3)),
        Stage("confirm", confirm, trials=3, select=("accuracy", 1)),
    ],
    workers=2,
    seed=1,
)
print(study.run())
[winner] = study.status().stages[-1].survivors
best = next(row for row in study.table("confirm") if row.name == winner)
print(
    f"best: depth {best.params['depth']}, features {best.params['features']}, accuracy {best.metrics['accuracy']:.3f}"
)
