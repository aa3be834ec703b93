"""A linear classifier of relations by features: ReVersion's relation accuracy needs one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_FOLDS = 5


class Classifier(NamedTuple):
    """A fitted classifier, and how well it does on exemplars that it was not fitted on."""

    model: Any  # a scikit-learn classifier of features [N, E]
    held_out: float  # cross-validated accuracy
    chance: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The relation's name for each of features [N, E]."""
        return self.model.predict(features)

    def describe(self) -> str:
        return (
            f"classifier of relations: right on {100 * self.held_out:.0f}% of held-out exemplars "
            f"(chance {100 * self.chance:.0f}%)"
        )


def fit(features: Mapping[str, np.ndarray]) -> Classifier:
    """Linear discriminant analysis of each relation's exemplars, features [X, E], of which there are two or more.

    ValueError without scikit-learn.

    There are fewer exemplars than features, so the covariance is shrunk (Ledoit & Wolf, 2004), which leaves no constant
    to choose. Every relation is as likely as another, however many exemplars it has. The accuracy is that of a
    stratified cross-validation: with 4 to 10 exemplars a relation it says whether the classifier can be trusted at all.
    """
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        needed = "pip install 'reversion_jax[benchmark]'"
        raise ValueError(f"the classifier of relations needs scikit-learn: {needed}") from error
    values = np.concatenate(list(features.values())).astype(np.float64)
    names = np.repeat(list(features), [len(own) for own in features.values()])
    priors = np.full(len(features), 1 / len(features))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
    folds = StratifiedKFold(min(_FOLDS, *map(len, features.values())), shuffle=True, random_state=0)
    right = cross_val_predict(model, values, names, cv=folds) == names
    held_out = float(np.mean([right[names == name].mean() for name in features]))
    return Classifier(model.fit(values, names), held_out, 1 / len(features))
