"""scikit-learn's own checks of the estimators, with those that cannot apply and why; pipelines and searches."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from seqmix.analysis import Classifier, Imputer

#: checks that cannot apply, by estimator, with the reason
_OPTIONS = "a wrong value of an option is refused by the constructor, before data is read"
_FRAMES = "frames are long: a column of times beside the channels"
_WINDOWS = "rows follow each other in time: their order, and the rows around each, count"
CANNOT_APPLY = {
    "Classifier": {
        "check_do_not_raise_errors_in_init_or_set_params": _OPTIONS,
        "check_set_params": _OPTIONS,
        "check_n_features_in_after_fitting": _FRAMES,
    },
    "Imputer": {
        "check_do_not_raise_errors_in_init_or_set_params": _OPTIONS,
        "check_set_params": _OPTIONS,
    },
}
#: checks that train to a good score
SLOW = ("check_classifiers_train",)


def cannot_apply(estimator):
    return CANNOT_APPLY[type(estimator).__name__]


@parametrize_with_checks(
    [
        Classifier("Pool", max_steps=2, model_kwargs={"d_model": 8, "n_layers": 1}),
        Imputer("DLinear", max_steps=1, context=4),
    ],
    expected_failed_checks=cannot_apply,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
