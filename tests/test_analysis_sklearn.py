"""scikit-learn's own checks of the estimators, with those that cannot apply and why; pipelines and searches."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator

from seqmix.analysis import AnomalyDetector, Classifier, Imputer
from seqmix.errors import DataError, SeqmixError

_OPTIONS = "a wrong value of an option is refused by the constructor, before data is read"
#: checks that cannot apply, with the reason
CANNOT_APPLY = {
    "check_do_not_raise_errors_in_init_or_set_params": _OPTIONS,
    "check_set_params": _OPTIONS,
    "check_classifier_data_not_an_array": "frames are long; a wide one is no collection of series",
}
_WINDOWS = "the rows before and after a row count in its score"
OF_DETECTORS = {
    "check_methods_sample_order_invariance": _WINDOWS,
    "check_methods_subset_invariance": _WINDOWS,
    "check_fit_score_takes_y": "labels of rows are 0 and 1, never 2",
}
TINY = {"d_model": 8, "n_layers": 1}
ESTIMATORS = {
    "Classifier": Classifier("Pool", max_steps=2, model_kwargs=TINY),
    "AnomalyDetector": AnomalyDetector("SubPCA", season=3),
    "Imputer": Imputer("DLinear", max_steps=1, context=4),
}
#: as they come; in closed form
DEFAULTS = {"Classifier()": Classifier(), "AnomalyDetector()": AnomalyDetector(), "Imputer()": Imputer()}
#: for the checks that want a good score
TRAINED = Classifier("Dense", max_steps=40, lr=0.03, val_size=0, batch_size=64, model_kwargs=TINY)


def _checks():
    """Every check of every estimator."""
    for name, estimator in {**ESTIMATORS, **DEFAULTS}.items():
        for _, check in estimator_checks_generator(estimator, legacy=True):
            function = getattr(check, "func", check)
            options = getattr(check, "keywords", {})
            trained = name == "Classifier" and function.__name__ == "check_classifiers_train"
            marks = [pytest.mark.slow] if trained or name in DEFAULTS else []
            label = "-".join([name, function.__name__, *map(str, options.values())])
            yield pytest.param(TRAINED if trained else estimator, check, id=label, marks=marks)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_that_fails_leaves_nothing_of_an_earlier_one(name):
    X, y = np.random.default_rng(0).normal(size=(40, 30)), np.arange(40) % 2
    found = clone(ESTIMATORS[name]).fit(X, y)
    found.score(X, y)
    with pytest.raises(DataError, match="no value at all"):
        found.fit(np.full((5, 3), np.nan), y[:5])
    with pytest.raises(NotFittedError):
        found.score(X, y)


@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_checks_of_scikit_learn(estimator, check):
    name = getattr(check, "func", check).__name__
    # 20 rows without a past are fewer than the window that the default finds
    short = estimator is DEFAULTS["AnomalyDetector()"] and name == "check_fit_idempotent"
    if short or name in CANNOT_APPLY or (isinstance(estimator, AnomalyDetector) and name in OF_DETECTORS):
        with pytest.raises((UserWarning, SeqmixError, ValueError, AssertionError)):
            check(estimator)
    else:
        check(estimator)
