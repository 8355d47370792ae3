"""What "right" means: one file per task."""

from bigjax.tasks.image_classification import ImageClassification
from bigjax.tasks.language_modelling import LanguageModelling
from bigjax.tasks.speech_recognition import SpeechRecognition
from bigjax.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "image_classification": ImageClassification,
    "language_modelling": LanguageModelling,
    "speech_recognition": SpeechRecognition,
}
