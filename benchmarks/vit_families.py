"""Which families of vision transformers can be prepared, calibrated and trained for a step, and why the others are refused.

    python -m benchmarks.vit_families [MODEL ...]

Take a small member of each family of timm and torchvision, with random weights and, where its class allows, fewer blocks. Try query-key
reparameterization, then the plain form, then attention in full precision. The table goes between the markers of
docs/vision-transformers.md.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.result import ROOT, parse, parser, write_text
from stillbit import QuantConfig, calibrate, prepare
from stillbit.errors import StillbitError
from stillbit.quantizers import Quantizer

PAGE = ROOT / "docs" / "vision-transformers.md"
BEGIN, END = "<!-- families: begin (benchmarks/vit_families.py) -->", "<!-- families: end -->"
FORMS = ("qkr", "plain", "float")
SHALLOW = {"depth": 2}
NARROW = {"depth": 2, "embed_dim": 192, "num_heads": 3}


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: The family's name.
        model: Its member, by timm's or torchvision's name.
        settings: Arguments that make the member smaller.
        library: "timm" or "torchvision".
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    library: str = "timm"

    def build(self) -> nn.Module:
        """Build the member with random weights."""
        torch.manual_seed(0)
        if self.library == "torchvision":
            model: nn.Module = torchvision.models.get_model(self.model, weights=None, num_classes=10)
        else:
            model = timm.create_model(self.model, pretrained=False, num_classes=10, **self.settings)
        return model

    def image_size(self, model: nn.Module) -> int:
        """Return the side of the member's images, in pixels."""
        size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))[-1]
        return int(self.settings.get("img_size", size))


FAMILIES = (
    Family("ViT", "vit_tiny_patch16_224", SHALLOW),
    Family("ViT with parallel blocks", "vit_small_patch16_18x2_224", SHALLOW),
    Family("ViT with registers, pooled", "vit_wee_patch16_reg1_gap_256", SHALLOW),
    Family("ViT hybrid", "vit_tiny_r_s16_p8_224", SHALLOW),
    Family("ViT with relative positions", "vit_relpos_small_patch16_224", SHALLOW),
    Family("ViT, CLIP", "vit_base_patch16_clip_224", NARROW),
    Family("ViT, SigLIP", "vit_base_patch16_siglip_224", NARROW),
    Family("ViT, SigLIP, pooled", "vit_base_patch16_siglip_gap_224", NARROW),
    Family("ViT, DINOv2", "vit_small_patch14_dinov2", SHALLOW | {"img_size": 224}),
    Family("ViT, DINOv3 (EVA)", "vit_small_patch16_dinov3", SHALLOW),
    Family("ViT, AIMv2", "aimv2_large_patch14_224", NARROW),
    Family("ViT, InternViT", "vit_intern300m_patch14_448", NARROW | {"img_size": 224}),
    Family("ViT with query and key norms", "vit_tiny_patch16_224", SHALLOW | {"qk_norm": True}),
    Family("FlexiViT", "flexivit_small", SHALLOW),
    Family("NaFlexViT", "naflexvit_base_patch16_gap", NARROW | {"img_size": 224}),
    Family("SAM", "samvit_base_patch16_224", NARROW),
    Family("DeiT", "deit_tiny_patch16_224", SHALLOW),
    Family("DeiT, distilled", "deit_tiny_distilled_patch16_224", SHALLOW),
    Family("DeiT-3", "deit3_small_patch16_224", SHALLOW),
    Family("BEiT", "beit_base_patch16_224", NARROW),
    Family("BEiT-2", "beitv2_base_patch16_224", NARROW),
    Family("EVA-02", "eva02_tiny_patch14_224", SHALLOW),
    Family("Swin", "swin_tiny_patch4_window7_224"),
    Family("Swin-S3", "swin_s3_tiny_224"),
    Family("Swin v2", "swinv2_tiny_window8_256"),
    Family("Swin v2, CR", "swinv2_cr_tiny_224"),
    Family("CaiT", "cait_xxs24_224", SHALLOW),
    Family("XCiT", "xcit_nano_12_p16_224", SHALLOW),
    Family("VOLO", "volo_d1_224"),
    Family("LeViT", "levit_128s"),
    Family("TinyViT", "tiny_vit_5m_224"),
    Family("PVT v2", "pvt_v2_b0"),
    Family("MViT v2", "mvitv2_tiny"),
    Family("Twins", "twins_svt_small"),
    Family("MaxViT", "maxvit_rmlp_pico_rw_256"),
    Family("CoAtNet", "coatnet_nano_rw_224"),
    Family("ConViT", "convit_tiny", SHALLOW),
    Family("CrossViT", "crossvit_tiny_240"),
    Family("PiT", "pit_ti_224"),
    Family("CoaT", "coat_lite_tiny"),
    Family("Visformer", "visformer_tiny"),
    Family("NesT", "nest_tiny"),
    Family("TNT", "tnt_s_patch16_224", SHALLOW),
    Family("DaViT", "davit_tiny"),
    Family("GCViT", "gcvit_xxtiny"),
    Family("Hiera", "hiera_tiny_224"),
    Family("ViTamin", "vitamin_small_224"),
    Family("NextViT", "nextvit_small"),
    Family("CAFormer", "caformer_s18"),
    Family("EfficientFormer", "efficientformer_l1"),
    Family("EfficientFormer v2", "efficientformerv2_s0"),
    Family("EfficientViT (MIT)", "efficientvit_b0"),
    Family("EfficientViT (MSRA)", "efficientvit_m0"),
    Family("EdgeNeXt", "edgenext_xx_small"),
    Family("MobileViT", "mobilevit_xxs"),
    Family("MobileViT v2", "mobilevitv2_050"),
    Family("FastViT", "fastvit_sa12"),
    Family("ViT", "vit_b_16", library="torchvision"),
    Family("Swin", "swin_t", library="torchvision"),
    Family("Swin v2", "swin_v2_t", library="torchvision"),
    Family("MaxViT", "maxvit_t", library="torchvision"),
)


def attempt(family: Family, form: str) -> str | None:
    """Prepare, calibrate and train for one step; return None, or the reason for a refusal without what is allowed instead."""
    model = family.build()
    images = torch.randn(2, 3, *(family.image_size(model),) * 2)
    try:
        prepare(model, QuantConfig.for_vit("W4A4", attention=form), example=images[:1])
        calibrate(model, [(images,)])
        train_step(model, images)
    except StillbitError as error:
        return str(error).partition("; ")[0]
    return None


def train_step(model: nn.Module, images: Tensor) -> None:
    """Take one step, and check that every quantizer took part."""
    reached: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda *_, name=name: reached.add(name))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    outputs = model(images)
    loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    assert isinstance(loss, Tensor)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not [name for name, module in model.named_modules() if isinstance(module, Quantizer) and name not in reached]


def row(family: Family, tried: Callable[[Family, str], str | None]) -> str:
    """Return one line of the table: the first form that works, and why those before it did not."""
    reasons: dict[str, list[str]] = {}
    works = "nothing"
    for form in FORMS:
        reason = tried(family, form)
        if reason is None:
            works = form
            break
        reasons.setdefault(reason.replace(f"attention is {form!r}", "attention is asked for"), []).append(form)  # list each reason once
    refused = "<br>".join(f"{', '.join(forms)}: `{reason}`" for reason, forms in reasons.items())
    return f"| {family.name} | {family.library} `{family.model}` | {works} | {refused} |"


def table(families: tuple[Family, ...]) -> str:
    """Return the table in Markdown."""
    lines = [
        f"torch {torch.__version__.split('+')[0]}, timm {timm.__version__}, torchvision {torchvision.__version__.split('+')[0]}.",
        "",
        "| family | model | prepares with | why not with more |",
        "|---|---|---|---|",
    ]
    for family in families:
        lines.append(row(family, attempt))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    options = parser("vit_families", __doc__, PAGE)
    options.add_argument("models", nargs="*", metavar="MODEL", help="print the rows of these models, and write nothing")
    given = parse(options)
    warnings.filterwarnings("ignore")
    rows = table(tuple(family for family in FAMILIES if not given.models or family.model in given.models))
    if given.models:
        return
    before, _, rest = given.output.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(given.output, f"{before}{BEGIN}\n{rows}\n{END}{after}")


if __name__ == "__main__":
    main()
