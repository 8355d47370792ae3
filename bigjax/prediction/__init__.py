"""What a trained model answers: one predictor for each task."""

from bigjax.prediction.image_classification import ImagePredictor
from bigjax.prediction.language_modelling import NextTokenPredictor
from bigjax.prediction.masked_language_modelling import FillMaskPredictor
from bigjax.prediction.predictor import Predictor
from bigjax.prediction.question_answering import QuestionPredictor
from bigjax.prediction.sequence_classification import SequencePredictor
from bigjax.prediction.speech_recognition import SpeechPredictor
from bigjax.prediction.translation import TranslationPredictor

PREDICTORS: dict[str, type[Predictor]] = {
    "image_classification": ImagePredictor,
    "language_modelling": NextTokenPredictor,
    "masked_language_modelling": FillMaskPredictor,
    "question_answering": QuestionPredictor,
    "sequence_classification": SequencePredictor,
    "speech_recognition": SpeechPredictor,
    "translation": TranslationPredictor,
}
