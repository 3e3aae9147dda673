"""All sections of a run's config in one class, before the rules that relate them."""

from pydantic import Field

from bigtrain.config.data import DataConfig
from bigtrain.config.model import ModelConfig
from bigtrain.config.model_kinds import FINE_TUNING, ObjectiveTraits
from bigtrain.config.objective import ObjectiveConfig
from bigtrain.config.paths import FolderPath
from bigtrain.config.sections import (
    CheckpointConfig,
    GuardConfig,
    OptimConfig,
    ParallelConfig,
    ProfileConfig,
    Section,
    TrackConfig,
    TrainConfig,
    ValidationConfig,
)


class RunSections(Section):
    """Everything that determines what a run does; `RunConfig` adds the rules between sections."""

    name: str
    """Names the run folder, and the run in wandb."""
    runs_dir: FolderPath = "runs"
    """Folder that holds the run folders."""
    relative_to: FolderPath | None = None
    """Folder that relative paths of this file start from; a run records its own working folder
    here. When not given: the working folder."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Determines initial weights, the order of the data and dropout."""
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    guard: GuardConfig = GuardConfig()
    profile: ProfileConfig = ProfileConfig()
    track: TrackConfig = TrackConfig()

    @property
    def objective_traits(self) -> ObjectiveTraits:
        """The properties of the run's objective."""
        return FINE_TUNING.get(self.objective.kind, self.model.traits.objective)

    @property
    def is_classifier(self) -> bool:
        """Whether the model has a classifier's head in place of those of pretraining."""
        return self.objective.kind == "classification"

    @property
    def decay_steps(self) -> int:
        """The step at which the learning rate's decay ends."""
        return self.optim.decay_steps or self.train.steps
