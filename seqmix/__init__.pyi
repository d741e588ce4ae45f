from seqmix import analysis as analysis
from seqmix import data as data
from seqmix import errors as errors
from seqmix import forecasting as forecasting
from seqmix import mixers as mixers
from seqmix import models as models
from seqmix import ops as ops
from seqmix import tasks as tasks
from seqmix import testing as testing
from seqmix import vision as vision
from seqmix.analysis import AnomalyDetector as AnomalyDetector
from seqmix.analysis import Classifier as Classifier
from seqmix.analysis import Imputer as Imputer
from seqmix.forecasting import AutoTune as AutoTune
from seqmix.forecasting import Forecaster as Forecaster
from seqmix.forecasting import check_frame as check_frame
from seqmix.forecasting import long_from_wide as long_from_wide
from seqmix.forecasting import resample as resample
from seqmix.mixers import Mixer as Mixer
from seqmix.mixers import list_mixers as list_mixers
from seqmix.models import list_models as list_models
from seqmix.series import Series as Series

__version__: str
