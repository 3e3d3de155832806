"""What every section of a profile is made of: the section, types with their ranges, checks that several share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Start = Literal["released", "scratch"]


class Section(BaseModel):
    """Immutable, strict about types, no unknown keys. Validators name the offending key first: ``"steps: ..."``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def divides(section: Section, whole: str, part: str) -> None:
    """Raise unless the setting ``part`` divides the setting ``whole``."""
    if getattr(section, whole) % getattr(section, part):
        raise ValueError(
            f"{whole}: {getattr(section, whole)} is not a multiple of {part} ({getattr(section, part)}); change either"
        )


def even_batches(rlvr: Any) -> None:
    """Raise unless a rollout batch is cut evenly into updates, and an update evenly into micro-batches."""
    divides(rlvr, "prompts_per_step", "prompts_per_update")
    if rlvr.prompts_per_update * rlvr.group_size % rlvr.sequences_per_micro_batch:
        raise ValueError(
            f"sequences_per_micro_batch: {rlvr.sequences_per_micro_batch} does not divide prompts_per_update x "
            f"group_size ({rlvr.prompts_per_update} x {rlvr.group_size})"
        )
