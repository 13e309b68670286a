"""Image features: backbones without a head, whose embeddings are learnt and compared."""

from __future__ import annotations

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.tasks.base import Metric, Task, register_task


class Features(Task):
    """The model gives one vector an image; labels are not needed, and tell classes apart where they are there."""

    name = "features"
    auto_class = "AutoModel"
    pipeline_tag = "image-feature-extraction"
    noun = "backbone for image features"
    usage = ("    embedding = model(**inputs).pooler_output",)
    deciding = Metric("cosine_similarity", "cosine similarity to the teacher")
    metrics = (Metric("knn_accuracy", "k-NN accuracy", share=True), deciding)
    classes = False
    needs_targets = False
    gallery = True
    general_steps = False
    trains_teachers = False
    mixes = True

    def check_recipe(self, recipe):
        if recipe.student.is_teacher:
            raise UsageError(
                "'student.model' is the teacher, which has nothing to learn from itself: name a smaller one"
            )
        super().check_recipe(recipe)
        if any(section.finetune is not None for section in recipe.teachers.values()):
            raise UsageError("'teacher.finetune' trains a classifier, which 'task: features' leaves out: remove it")
        if recipe.assistants:
            raise UsageError("'assistants' learn to classify: leave them out, or set 'task: classification'")

    def load(self, name, labels=None, **options):
        from hf_compress.models.embeddings import load_backbone

        return load_backbone(name, **options)

    def untrained_teacher(self, teacher):
        """Do without a pooling layer that the checkpoint lacks: it would scramble the embeddings."""
        teacher.model.pooler = None

    def require_labels(self, loaded, data):
        if not data.labelled:
            raise RunError(
                f"{data.facts['path']} has no labels, which the k-NN accuracy of {loaded.name} needs: name labelled "
                "images"
            )
        return data

    def answer(self, model, pixel_values):
        from hf_compress.models.embeddings import pooled_embedding

        return {"embeddings": pooled_embedding(model, pixel_values)}

    def loss(self, output, batch):
        raise RunError("'task: features' learns from a teacher's embeddings: use the step 'distill_features'")

    def compare(self, loss, student, teacher, batch):
        """Return the mean squared distance, whatever the loss: there are no classes."""
        from torch.nn import functional as F

        return F.mse_loss(student["embeddings"], teacher["embeddings"])

    def quality(self, predictions):
        from hf_compress.measure.features import cosine_similarity

        return {self.deciding.name: cosine_similarity(predictions.outputs["embeddings"], predictions.labels)}

    def examiner(self, data, split, teacher, predict):
        """Measure neighbours among the training images, and the similarity to the teacher."""
        from hf_compress.measure.features import feature_examiner

        return feature_examiner(data, teacher, split)


FEATURES = register_task(Features())
