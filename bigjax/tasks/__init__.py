"""What "right" means: one file per task."""

from bigjax.tasks.image_classification import ImageClassification
from bigjax.tasks.language_modelling import LanguageModelling
from bigjax.tasks.masked_language_modelling import MaskedLanguageModelling
from bigjax.tasks.question_answering import QuestionAnswering
from bigjax.tasks.sequence_classification import SequenceClassification
from bigjax.tasks.speech_recognition import SpeechRecognition
from bigjax.tasks.task import Task
from bigjax.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    "image_classification": ImageClassification,
    "language_modelling": LanguageModelling,
    "masked_language_modelling": MaskedLanguageModelling,
    "question_answering": QuestionAnswering,
    "sequence_classification": SequenceClassification,
    "speech_recognition": SpeechRecognition,
    "translation": Translation,
}
