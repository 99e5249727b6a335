"""How many blocks of each page are not run, and why. A new one is a new line here, or a larger number."""

NOT_RUN: dict[tuple[str, str], int] = {
    ("README.md", "installs software"): 1,
    ("README.md", "needs ImageNet"): 1,
    ("docs/doctor.md", "leaves with 5 where something is wrong"): 1,
    ("docs/evidence.md", "takes hours"): 1,
    ("docs/export.md", "needs ExecuTorch"): 1,
    ("docs/from-ofq.md", "needs a published checkpoint"): 1,
    ("docs/from-oscillations-qat.md", "needs ImageNet"): 1,
    ("docs/integrations.md", "installs software"): 1,
    ("docs/real-data.md", "installs software"): 1,
    ("docs/real-data.md", "takes hours"): 1,
    ("docs/recipes.md", "installs software"): 1,
    ("docs/recipes.md", "needs ImageNet"): 1,
    ("docs/start.md", "installs software"): 1,
    ("docs/toy.md", "takes a minute"): 1,
}
