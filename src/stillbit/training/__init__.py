"""Training: data, one optimizer, one loop, exact resume.

Nothing is imported here: `import stillbit` takes `JointOptimizer` from `stillbit.training.optim` and must not load timm or Accelerate.
"""
