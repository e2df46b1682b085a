"""What is done to training images, as a study says it. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.augmentation import POLICIES
from trainables.augmentation.timm_settings import parse
from trainables.catalogue import OneOf
from trainables.section import Section

Policy = Annotated[str, OneOf(POLICIES)]


class AugmentationConfig(Section):
    """What is done to every copy of a training image."""

    policy: Policy = Field("sim", description="none, sim (crop 4 + flip), rand or auto (+ Cutout 16)")
    copies: int = Field(1, ge=1, le=64, description="T, augmented copies of each image")
    copy_policies: tuple[Policy, ...] = Field(
        (), description="a policy for each copy, such as a weak and a strong view; none: `policy` for all"
    )
    n: int = Field(2, ge=0, le=10, description="operations of RandAugment")
    m: int = Field(10, ge=0, le=30, description="magnitude bin of RandAugment, of 31")
    rand: str | None = Field(
        None,
        description="what rand does, in timm's words: such as rand-n2-m10-mstd0.5-inc1, whose m ends at 10; none: n and m, on "
        "torchvision's scale of 31 bins",
    )
    cutout: int | None = Field(None, ge=0, description="Cutout in pixels; none: what the policy says; 0: off")
    crop: Literal["resize_crop", "random_resized_crop"] = Field(
        "resize_crop",
        description="what sim, rand and auto cut out: a window of data.image_size out of data.store_size (or out of the padded "
        "image); random_resized_crop: one of random size and aspect ratio, resized",
    )
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = Field(
        (0.08, 1.0), description="smallest and largest part of the area that random_resized_crop cuts out"
    )
    flip: bool = Field(True, description="mirror left to right with probability 1/2; false for digits and text")
    color_jitter: float = Field(
        0.0, ge=0, le=1, description="brightness, contrast and saturation change by factors of 1 ± this; hue stays"
    )
    fill: int = Field(
        0,
        ge=0,
        le=255,
        description="grey level that RandAugment and AutoAugment move in from outside: 0 in torchvision, 128 in the widely "
        "copied code of AutoAugment's CIFAR-10 policy",
    )
    mix: Literal["none", "mixup", "cutmix"] = Field(
        "none", description="images are mixed with a partner of the batch, whatever the policy"
    )
    mix_alpha: float = Field(1.0, gt=0, description="α of the Beta(α, α) that mixing draws its coefficient from")

    @field_validator("policy", mode="before")
    @classmethod
    def _mixing_is_no_policy(cls, value: Any) -> Any:
        if value in ("mixup", "cutmix"):
            raise ValueError(f"{value!r} goes with any policy: set `augmentation.mix: {value}`")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.copy_policies and len(self.copy_policies) != self.copies:
            raise ValueError(
                f"augmentation.copy_policies names {len(self.copy_policies)} policies for augmentation.copies = {self.copies}; "
                "name one for each copy, or none"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(
                f"augmentation.crop_scale = {list(self.crop_scale)} is smallest and largest part: write the smaller one first"
            )
        if self.crop == "resize_crop" and self.crop_scale != (0.08, 1.0):
            raise ValueError(
                "augmentation.crop_scale goes with `crop: random_resized_crop`, not 'resize_crop'; leave it out"
            )
        if self.rand is not None:
            parse(self.rand)
            said = [key for key, neutral in {"n": 2, "m": 10, "fill": 0}.items() if getattr(self, key) != neutral]
            if said:
                raise ValueError(
                    f"augmentation.{said[0]} has no meaning beside augmentation.rand = {self.rand!r}, which says n, m "
                    "and, as timm does, the fill; leave one out"
                )
        used = set(self.policies)
        for name, neutral, having in (
            ("crop", "resize_crop", {"sim", "rand", "auto"}),
            ("color_jitter", 0.0, {"sim", "rand", "auto"}),
            ("fill", 0, {"rand", "auto"}),
            ("rand", None, {"rand"}),
        ):
            if getattr(self, name) != neutral and not used & having:
                raise ValueError(
                    f"augmentation.{name} = {getattr(self, name)!r} does nothing with policy {', '.join(sorted(used))}; choose "
                    f"one of {', '.join(sorted(having))}, or leave it out"
                )
        return self

    @property
    def policies(self) -> tuple[str, ...]:
        """The policy of every copy."""
        return self.copy_policies or (self.policy,) * self.copies
