"""The reduced MobileNetV2 of the golden end-to-end runs, as a plain float model."""

from typing import Any

from torch import Tensor, nn


class ReducedMobileNetV2(nn.Module):
    """Stem, inverted residuals, head, classifier; names as in the golden file."""

    def __init__(self, arch: dict[str, Any]) -> None:
        super().__init__()
        width = arch["stem"]
        features: list[nn.Module] = [nn.Sequential(*_conv(arch["input"][0], width, 3, stride=2))]
        for expansion, channels, repeats, stride in arch["inverted_residual_setting_t_c_n_s"]:
            for repeat in range(repeats):
                features.append(InvertedResidual(width, channels, expansion, stride if repeat == 0 else 1))
                width = channels
        features.append(nn.Sequential(*_conv(width, arch["last_channel"], 1)))
        self.features = nn.Sequential(*features)
        self.pool = nn.AvgPool2d(arch["avgpool"])
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(arch["last_channel"], arch["n_class"]))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else _conv(inputs, hidden, 1)
        layers += _conv(hidden, hidden, 3, stride=stride, groups=hidden)
        layers += _conv(hidden, outputs, 1)[:2]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]
