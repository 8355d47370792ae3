"""What a trained model answers: one predictor for each task."""

from bigjax.prediction.image_classification import ImagePredictor
from bigjax.prediction.language_modelling import NextTokenPredictor
from bigjax.prediction.predictor import Predictor
from bigjax.prediction.speech_recognition import SpeechPredictor

PREDICTORS: dict[str, type[Predictor]] = {
    "image_classification": ImagePredictor,
    "language_modelling": NextTokenPredictor,
    "speech_recognition": SpeechPredictor,
}
