"""A linear classifier that tells relations apart by features of pictures, for ReVersion's relation accuracy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_FOLDS = 5


class Classifier(NamedTuple):
    """A fitted classifier, and its accuracy on exemplars that it was not fitted on."""

    model: Any  # a scikit-learn classifier of features [N, E]
    held_out: float  # cross-validated accuracy, in [0, 1]
    chance: float  # accuracy of guessing, in [0, 1]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the name of a relation for each row of the features [N, E]."""
        return self.model.predict(features)

    def describe(self) -> str:
        """Returns a text about the accuracy."""
        return (
            f"classifier of relations: right on {100 * self.held_out:.0f}% of held-out exemplars "
            f"(chance {100 * self.chance:.0f}%)"
        )


def fit(features: Mapping[str, np.ndarray]) -> Classifier:
    """Fits a classifier by linear discriminant analysis.

    features: for each relation, the features [X, E] of its X exemplars, of which there are at least 2.
    Raises ValueError if scikit-learn is not installed.

    There are fewer exemplars than features, so the covariance is shrunk by a method that has no constant to choose
    (Ledoit & Wolf, 2004). All relations have the same prior probability, however many exemplars they have. The accuracy
    comes from stratified cross-validation. With 4 to 10 exemplars per relation, this accuracy is only a rough check of
    the classifier.
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
